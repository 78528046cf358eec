#include "cli/report/statistics.h"

#include <algorithm>
#include <boost/math/distributions/non_central_t.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <boost/math/tools/roots.hpp>
#include <cmath>
#include <cstdint>

namespace normlab::report {
namespace {

namespace math = boost::math;

double CriticalT(int degrees) { return math::quantile(math::students_t(degrees), 1 - (1 - kConfidence) / 2); }

/// Power of the two-sided one-sample t test of size 1 - kConfidence for a true effect in standard deviations.
double PowerOf(double effect, int n) {
  const int degrees = n - 1;
  const double critical = CriticalT(degrees);
  const math::non_central_t under_effect(degrees, effect * std::sqrt(static_cast<double>(n)));
  return math::cdf(math::complement(under_effect, critical)) + math::cdf(under_effect, -critical);
}

/// The effect, in standard deviations, that has kUsualPower.
double DetectableEffect(int n) {
  const auto missing = [n](double effect) { return PowerOf(effect, n) - kUsualPower; };
  double high = 1;
  while (missing(high) < 0) high *= 2;
  std::uintmax_t iterations_max = 100;
  const auto [low, top] =
      math::tools::toms748_solve(missing, 0.0, high, math::tools::eps_tolerance<double>(40), iterations_max);
  return (low + top) / 2;
}

}  // namespace

Mean MeanOf(const std::vector<double>& values) {
  Mean mean{.n = static_cast<int>(values.size())};
  for (const double value : values) mean.value += value;
  mean.value /= mean.n;
  if (mean.n < 2) return mean;
  double squares = 0;
  for (const double value : values) squares += (value - mean.value) * (value - mean.value);
  mean.deviation = std::sqrt(squares / (mean.n - 1));
  mean.half_width = CriticalT(mean.n - 1) * *mean.deviation / std::sqrt(static_cast<double>(mean.n));
  return mean;
}

PairedTest TestPairs(const std::vector<double>& differences) {
  PairedTest test{.difference = MeanOf(differences)};
  const Mean& mean = test.difference;
  if (mean.n < 2 || *mean.deviation == 0) return test;
  const double root = std::sqrt(static_cast<double>(mean.n));
  test.effect_size = mean.value / *mean.deviation;
  test.t = *test.effect_size * root;
  test.p = 2 * math::cdf(math::complement(math::students_t(mean.n - 1), std::abs(*test.t)));
  // Far out the distribution's series takes long, and the power is 1 to all digits shown, even for two pairs.
  constexpr double kCertainT = 100;
  test.power = std::abs(*test.t) > kCertainT ? 1.0 : PowerOf(*test.effect_size, mean.n);
  test.detectable_difference = DetectableEffect(mean.n) * *mean.deviation;
  return test;
}

std::vector<std::optional<double>> HolmAdjusted(const std::vector<std::optional<double>>& p_values) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < p_values.size(); ++i) {
    if (p_values[i]) order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return *p_values[a] < *p_values[b]; });
  std::vector<std::optional<double>> adjusted(p_values.size());
  double largest = 0;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    largest = std::max(largest, std::min(1.0, static_cast<double>(order.size() - rank) * *p_values[order[rank]]));
    adjusted[order[rank]] = largest;
  }
  return adjusted;
}

}  // namespace normlab::report
