#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <vector>

// How a quantity grows over the layers l = 1, 2, ...: least squares of its logarithm, so that all layers count alike.
namespace normlab {

struct CurveFit {
  double c;
  double rate;
  double r_squared;  // Of the logarithm; 1 for a constant, which either curve meets.
};

struct GrowthFit {
  CurveFit power;        // V_l = c l^rate
  CurveFit exponential;  // V_l = c exp(rate l)
};

namespace growth_fit_internal {

/// log y = log c + rate * x(layer).
template <typename Function>
CurveFit FitLine(const std::vector<double>& values, const Function& x_of_layer) {
  const auto n = static_cast<double>(values.size());
  double x_mean = 0, y_mean = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    x_mean += x_of_layer(static_cast<double>(i + 1)) / n;
    y_mean += std::log(values[i]) / n;
  }
  double xx = 0, xy = 0, yy = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double x = x_of_layer(static_cast<double>(i + 1)) - x_mean;
    const double y = std::log(values[i]) - y_mean;
    xx += x * x;
    xy += x * y;
    yy += y * y;
  }
  const double rate = xy / xx;
  return {.c = std::exp(y_mean - rate * x_mean), .rate = rate, .r_squared = yy > 0 ? xy * xy / (xx * yy) : 1};
}

}  // namespace growth_fit_internal

/// `values_by_layer[l - 1]` is the quantity at layer l. Nothing if there are fewer than two values or one is not
/// positive and finite.
inline std::optional<GrowthFit> FitGrowth(const std::vector<double>& values_by_layer) {
  if (values_by_layer.size() < 2) return std::nullopt;
  for (const double value : values_by_layer) {
    if (!(value > 0) || !std::isfinite(value)) return std::nullopt;
  }
  using growth_fit_internal::FitLine;
  return GrowthFit{.power = FitLine(values_by_layer, [](double layer) { return std::log(layer); }),
                   .exponential = FitLine(values_by_layer, [](double layer) { return layer; })};
}

}  // namespace normlab
