// The statistics of a report: Student's t on means and on differences between pairs, Holm's correction, power. Pure;
// the distributions are Boost.Math's. All tests are two-sided.
#pragma once

#include <optional>
#include <vector>

namespace normlab::report {

/// Level of every interval, and 1 minus the size of every test.
inline constexpr double kConfidence = 0.95;
/// Power at which DetectableDifference is stated.
inline constexpr double kUsualPower = 0.8;

struct Mean {
  int n = 0;
  double value = 0;
  std::optional<double> deviation;   // Sample standard deviation (n - 1); absent for n < 2.
  std::optional<double> half_width;  // Of the confidence interval t(n - 1) s / sqrt(n); absent for n < 2.
};

/// Of at least one value.
Mean MeanOf(const std::vector<double>& values);

/// Differences between members of pairs (the same seed under two schemes) against zero.
struct PairedTest {
  Mean difference;
  // Absent for fewer than two pairs, and when all differences are the same number: then no spread can be estimated.
  std::optional<double> t;
  std::optional<double> p;
  std::optional<double> effect_size;  // Cohen's d for pairs: mean / standard deviation of the differences.
  std::optional<double> power;        // Of this test, if the true effect were the one that was seen.
  // Smallest true difference, in units of the data, that a test of so many pairs finds with kUsualPower.
  std::optional<double> detectable_difference;
};

/// Of at least one difference.
PairedTest TestPairs(const std::vector<double>& differences);

/// Holm's step-down correction (1979) of the p values that are there; the others stay absent and do not count.
std::vector<std::optional<double>> HolmAdjusted(const std::vector<std::optional<double>>& p_values);

}  // namespace normlab::report
