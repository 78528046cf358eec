#include "worker/trainer/diagnostics/growth_fit.h"

#include <cmath>
#include <functional>

namespace normlab::trainer {
namespace {

/// log y = log c + rate * x.
CurveFit FitLine(const std::vector<double>& values, const std::function<double(double)>& x_of_layer) {
  const auto n = static_cast<double>(values.size());
  double x_mean = 0, y_mean = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    x_mean += x_of_layer(static_cast<double>(i + 1)) / n;
    y_mean += std::log(values[i]) / n;
  }
  double xx = 0, xy = 0, yy = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double x = x_of_layer(static_cast<double>(i + 1)) - x_mean;
    const double y = std::log(values[i]) - y_mean;
    xx += x * x;
    xy += x * y;
    yy += y * y;
  }
  const double rate = xy / xx;
  return {.c = std::exp(y_mean - rate * x_mean), .rate = rate, .r_squared = yy > 0 ? xy * xy / (xx * yy) : 1};
}

}  // namespace

std::optional<GrowthFit> FitGrowth(const std::vector<double>& values_by_layer) {
  if (values_by_layer.size() < 2) return std::nullopt;
  for (const double value : values_by_layer) {
    if (!(value > 0) || !std::isfinite(value)) return std::nullopt;
  }
  return GrowthFit{.power = FitLine(values_by_layer, [](double layer) { return std::log(layer); }),
                   .exponential = FitLine(values_by_layer, [](double layer) { return layer; })};
}

}  // namespace normlab::trainer
