#include "cli/report/statistics.h"

#include <gmock/gmock.h>

namespace normlab::report {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::Optional;

constexpr double kTiny = 1e-9;

// Expected numbers here are scipy's and statsmodels', to the digits given; tests/peers compares more of them.

TEST(MeanTest, HasTheIntervalOfStudentsT) {
  const Mean mean = MeanOf({3.91, 3.87, 3.95});
  EXPECT_EQ(mean.n, 3);
  EXPECT_NEAR(mean.value, 3.91, kTiny);
  EXPECT_THAT(mean.deviation, Optional(DoubleNear(0.04, kTiny)));
  // scipy.stats.t.ppf(0.975, 2) = 4.302652729911275
  EXPECT_THAT(mean.half_width, Optional(DoubleNear(4.302652729911275 * 0.04 / std::sqrt(3.0), kTiny)));
}

TEST(MeanTest, OfOneValueHasNoSpread) {
  const Mean mean = MeanOf({2.5});
  EXPECT_EQ(mean.value, 2.5);
  EXPECT_EQ(mean.deviation, std::nullopt);
  EXPECT_EQ(mean.half_width, std::nullopt);
}

TEST(PairedTestTest, IsStudentsTOnTheDifferences) {
  const PairedTest test = TestPairs({-0.10, -0.14, -0.09});
  EXPECT_NEAR(test.difference.value, -0.11, kTiny);
  // scipy.stats.ttest_1samp([-0.10, -0.14, -0.09], 0): t = -7.201190377787749, p = 0.01874
  EXPECT_THAT(test.t, Optional(DoubleNear(-7.201190377787749, 1e-8)));
  EXPECT_THAT(test.p, Optional(DoubleNear(0.018743, 1e-5)));
  EXPECT_THAT(test.effect_size, Optional(DoubleNear(-7.201190377787749 / std::sqrt(3.0), 1e-8)));
}

TEST(PairedTestTest, OfOnePairSaysOnlyTheDifference) {
  const PairedTest test = TestPairs({-0.2});
  EXPECT_EQ(test.difference.value, -0.2);
  EXPECT_EQ(test.p, std::nullopt);
  EXPECT_EQ(test.power, std::nullopt);
}

TEST(PairedTestTest, OfEqualDifferencesClaimsNoCertainty) {
  const PairedTest test = TestPairs({0.5, 0.5, 0.5});
  EXPECT_EQ(test.p, std::nullopt);
  EXPECT_EQ(test.effect_size, std::nullopt);
}

TEST(PairedTestTest, OfAHugeEffectHasPowerOne) {
  const PairedTest test = TestPairs({5.0, 5.001, 5.002, 5.001});
  EXPECT_THAT(test.power, Optional(DoubleNear(1, 1e-6)));
}

TEST(PairedTestTest, FindsItsDetectableDifferenceWithTheUsualPower) {
  const PairedTest test = TestPairs({-0.10, -0.14, -0.09, -0.05, -0.12});
  // A sample of the same spread whose mean is exactly the detectable difference.
  std::vector<double> shifted;
  for (const double value : {-0.10, -0.14, -0.09, -0.05, -0.12}) {
    shifted.push_back(value - test.difference.value + *test.detectable_difference);
  }
  EXPECT_THAT(TestPairs(shifted).power, Optional(DoubleNear(kUsualPower, 1e-6)));
}

TEST(HolmTest, MultipliesTheSmallestMostAndNeverDecreases) {
  EXPECT_THAT(HolmAdjusted({0.01, 0.04, 0.03}),
              ElementsAre(Optional(DoubleNear(0.03, kTiny)), Optional(DoubleNear(0.06, kTiny)),
                          Optional(DoubleNear(0.06, kTiny))));
}

TEST(HolmTest, NeverExceedsOneAndLeavesAbsentOnesOut) {
  EXPECT_THAT(HolmAdjusted({0.6, std::nullopt, 0.7}),
              ElementsAre(Optional(Eq(1.0)), Eq(std::nullopt), Optional(Eq(1.0))));
}

}  // namespace
}  // namespace normlab::report
