#include "cli/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace normlab::cli {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

v1::Run Finished(const std::string& scheme, const std::string& seed, double loss) {
  v1::Run run;
  run.set_state(v1::SUCCEEDED);
  (*run.mutable_axes())["norm.scheme"] = scheme;
  (*run.mutable_axes())["seed"] = seed;
  run.mutable_progress()->mutable_eval()->set_loss(loss);
  run.mutable_progress()->set_tokens_per_second(100);
  for (int layer = 1; layer <= 5; ++layer) {
    auto* stats = run.mutable_progress()->mutable_layers()->add_layers();
    stats->set_layer(layer);
    stats->set_output_variance(layer * 10);
  }
  return run;
}

TEST(CompareRunsTest, GroupsOverSeedsAndSortsByLoss) {
  const auto groups =
      CompareRuns({Finished("pre_ln", "1", 4.0), Finished("pre_ln", "2", 5.0), Finished("lns", "1", 3.0)});
  ASSERT_THAT(groups, SizeIs(2));
  EXPECT_EQ(groups[0].axes.at("norm.scheme"), "lns");
  EXPECT_EQ(groups[0].validation_loss->value, 3.0);
  EXPECT_FALSE(groups[0].validation_loss->deviation) << "one run has no spread";
  EXPECT_EQ(groups[1].validation_loss->value, 4.5);
  EXPECT_NEAR(*groups[1].validation_loss->deviation, std::sqrt(0.5), 1e-12);
  EXPECT_DOUBLE_EQ(*groups[1].perplexity, std::exp(4.5));
  EXPECT_EQ(OutcomeText(groups[1]), "2/2 ok");
}

TEST(CompareRunsTest, TakesFirstMiddleAndLastLayer) {
  const auto groups = CompareRuns({Finished("lns", "1", 3.0)});
  ASSERT_THAT(groups[0].variances, SizeIs(3));
  EXPECT_EQ(groups[0].variances[0].layer, 1);
  EXPECT_EQ(groups[0].variances[1].layer, 3);
  EXPECT_EQ(groups[0].variances[2].layer, 5);
  EXPECT_EQ(groups[0].variances[1].value, 30);
}

TEST(CompareRunsTest, DivergedRunsAreCountedAndDoNotEnterTheMean) {
  v1::Run diverged = Finished("pre_ln", "2", std::numeric_limits<double>::quiet_NaN());
  v1::Run flagged = Finished("pre_ln", "3", 9.0);
  flagged.mutable_progress()->set_diverged(true);
  const auto groups = CompareRuns({Finished("pre_ln", "1", 4.0), diverged, flagged});
  EXPECT_EQ(groups[0].validation_loss->value, 4.0);
  EXPECT_EQ(OutcomeText(groups[0]), "1/3 ok, 2 diverged");
}

TEST(CompareRunsTest, GroupsWithoutAResultComeLastAndSayWhy) {
  v1::Run failed = Finished("a", "1", 1.0), cancelled = Finished("b", "1", 1.0), running = Finished("c", "1", 1.0);
  failed.set_state(v1::FAILED);
  cancelled.set_state(v1::CANCELLED);
  running.set_state(v1::RUNNING);
  const auto groups = CompareRuns({failed, cancelled, running, Finished("z", "1", 4.0)});
  ASSERT_THAT(groups, SizeIs(4));
  EXPECT_EQ(groups[0].axes.at("norm.scheme"), "z");
  EXPECT_FALSE(groups[1].validation_loss);
  EXPECT_EQ(OutcomeText(groups[1]), "0/1 ok, 1 failed");
  EXPECT_EQ(OutcomeText(groups[2]), "0/1 ok, 1 cancelled");
  EXPECT_EQ(OutcomeText(groups[3]), "0/1 ok, 1 not finished");
}

TEST(CompareRunsTest, NothingReportedIsNoNumber) {
  v1::Run run;
  run.set_state(v1::SUCCEEDED);
  const auto groups = CompareRuns({run});
  EXPECT_FALSE(groups[0].validation_loss);
  EXPECT_FALSE(groups[0].tokens_per_second);
  EXPECT_THAT(groups[0].variances, IsEmpty());
  EXPECT_THAT(CompareRuns({}), IsEmpty());
}

}  // namespace
}  // namespace normlab::cli
