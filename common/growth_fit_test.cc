#include "common/growth_fit.h"

#include <gmock/gmock.h>

namespace normlab {
namespace {

TEST(GrowthFitTest, FindsAPowerLawAndAnExponential) {
  std::vector<double> power, exponential;
  for (int l = 1; l <= 12; ++l) {
    power.push_back(3 * std::pow(l, 1.5));
    exponential.push_back(2 * std::exp(0.25 * l));
  }
  EXPECT_NEAR(FitGrowth(power)->power.rate, 1.5, 1e-12);
  EXPECT_NEAR(FitGrowth(power)->power.c, 3, 1e-12);
  EXPECT_NEAR(FitGrowth(power)->power.r_squared, 1, 1e-12);
  EXPECT_NEAR(FitGrowth(exponential)->exponential.rate, 0.25, 1e-12);
  EXPECT_LT(FitGrowth(exponential)->power.r_squared, 0.999);
}

TEST(GrowthFitTest, HasNothingToSayOfWhatHasNoLogarithm) {
  EXPECT_FALSE(FitGrowth({1, 0, 2}).has_value());
  EXPECT_FALSE(FitGrowth({1, INFINITY}).has_value());
  EXPECT_FALSE(FitGrowth({1}).has_value());
}

}  // namespace
}  // namespace normlab
