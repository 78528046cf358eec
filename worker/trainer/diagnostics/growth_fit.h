#pragma once

#include <optional>
#include <vector>

namespace normlab::trainer {

/// y = c f(x; rate), fitted by least squares of log y, so that all layers count alike; r_squared is of log y too.
struct CurveFit {
  double c;
  double rate;
  double r_squared;  // 1 for a constant y, which either curve meets.
};

/// How a quantity grows over the layers l = 1, 2, ...
struct GrowthFit {
  CurveFit power;        // V_l = c l^rate
  CurveFit exponential;  // V_l = c exp(rate l)
};

/// Nothing if there are fewer than two values or one is not positive and finite.
std::optional<GrowthFit> FitGrowth(const std::vector<double>& values_by_layer);

}  // namespace normlab::trainer
