#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "cli/format.h"
#include "cli/progress_view.h"

namespace normlab::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

v1::Run MakeRun(int place, v1::RunState state, int64_t step) {
  v1::Run run;
  run.set_id(RunId{{1}, place}.ToString());
  run.set_state(state);
  (*run.mutable_axes())["norm.scheme"] = "lns";
  run.mutable_spec()->mutable_train()->set_steps(100);
  run.mutable_spec()->mutable_train()->set_batch_size(4);
  run.mutable_spec()->mutable_data()->set_seq_len(25);
  run.mutable_progress()->set_step(step);
  run.mutable_progress()->set_loss(5.25);
  run.mutable_progress()->set_tokens_per_second(50);
  return run;
}

RunsById ById(const std::vector<v1::Run>& runs) {
  RunsById map;
  for (const v1::Run& run : runs) map[*RunId::Parse(run.id())] = run;
  return map;
}

TEST(UnitsTest, DurationsCountsAndBytesReadAsPeopleSayThem) {
  EXPECT_EQ(DurationText(absl::Seconds(43)), "43s");
  EXPECT_EQ(DurationText(absl::Seconds(725)), "12m 05s");
  EXPECT_EQ(DurationText(absl::Minutes(200)), "3h 20m");
  EXPECT_EQ(DurationText(absl::Hours(52)), "2d 4h");
  EXPECT_EQ(DurationText(absl::Seconds(-5)), "0s");
  EXPECT_EQ(DurationText(absl::InfiniteDuration()), "?");
  EXPECT_EQ(CountText(950), "950");
  EXPECT_EQ(CountText(12345), "12.3k");
  EXPECT_EQ(CountText(4'560'000), "4.56M");
  EXPECT_EQ(CountText(999'600), "1.00M");
  EXPECT_EQ(BytesText(999), "999 B");
  EXPECT_EQ(BytesText(3'100'000), "3.10 MB");
}

TEST(UnitsTest, ABarIsAlwaysAsWideAsAskedFor) {
  for (const double fraction : {-1.0, 0.0, 0.01, 0.5, 0.99, 1.0, 7.0, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(DisplayWidth(Bar(fraction, 10)), 10) << fraction;
  }
  EXPECT_EQ(Bar(0.5, 4), "██░░");
  EXPECT_EQ(Bar(1, 4), "████");
}

TEST(FormatTest, TimeLeftFollowsFromStepsAndSpeed) {
  // 50 steps of 100 tokens at 50 tokens per second.
  EXPECT_EQ(TimeLeft(MakeRun(1, v1::RUNNING, 50)), absl::Seconds(100));
  v1::Run unknown = MakeRun(1, v1::RUNNING, 50);
  unknown.mutable_progress()->set_tokens_per_second(0);
  EXPECT_EQ(TimeLeft(unknown), absl::InfiniteDuration());
}

TEST(DrawRunsTest, ARunningRunShowsBarStepLossSpeedAndTimeLeft) {
  const auto lines = DrawRuns("exp-0001", ById({MakeRun(1, v1::RUNNING, 50)}), 120, 10, false);
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_EQ(lines[0], "exp-0001");
  EXPECT_THAT(lines[1],
              AllOf(HasSubstr("exp-0001.01  lns  ████████████░░░░░░░░░░░░"), HasSubstr("50/100"),
                    HasSubstr("loss 5.2500"), HasSubstr("RUNNING"), HasSubstr("50 tok/s"), HasSubstr("ETA 1m 40s")));
}

TEST(DrawRunsTest, NoLineIsWiderThanTheTerminal) {
  v1::Run waiting = MakeRun(2, v1::QUEUED, 0);
  waiting.set_reason(std::string(300, 'r'));
  for (const int columns : {10, 40, 60, 80, 200}) {
    for (const std::string& line :
         DrawRuns("a title", ById({MakeRun(1, v1::RUNNING, 50), waiting}), columns, 10, true)) {
      EXPECT_LE(DisplayWidth(line), columns) << line;
    }
  }
}

TEST(DrawRunsTest, WhatDoesNotFitIsCountedAndRunningRunsStay) {
  std::vector<v1::Run> runs;
  for (int i = 1; i <= 20; ++i) runs.push_back(MakeRun(i, i == 20 ? v1::RUNNING : v1::SUCCEEDED, 100));
  const auto lines = DrawRuns("title", ById(runs), 120, 6, false);
  ASSERT_THAT(lines, SizeIs(6));
  EXPECT_THAT(lines[1], HasSubstr("exp-0001.20"));
  EXPECT_EQ(lines.back(), "... and 16 more; all: normlab list");
}

TEST(DrawRunsTest, ADivergedRunSaysSo) {
  v1::Run run = MakeRun(1, v1::SUCCEEDED, 100);
  run.mutable_progress()->set_diverged(true);
  EXPECT_THAT(DrawRuns("t", ById({run}), 120, 10, false)[1], HasSubstr("SUCCEEDED, diverged"));
}

TEST(CountStatesTest, CountsInOrderOfARunsLife) {
  EXPECT_EQ(CountStates(ById({MakeRun(1, v1::FAILED, 1), MakeRun(2, v1::QUEUED, 0), MakeRun(3, v1::QUEUED, 0)})),
            "2 queued, 1 failed");
}

TEST(LineFilterTest, PrintsEachChangeOfStateAndProgressNowAndThen) {
  LineFilter filter(absl::Seconds(5));
  const absl::Time start = absl::FromUnixSeconds(1000);
  EXPECT_TRUE(filter.ShouldPrint(MakeRun(1, v1::QUEUED, 0), start));
  EXPECT_FALSE(filter.ShouldPrint(MakeRun(1, v1::QUEUED, 0), start + absl::Seconds(60)));
  EXPECT_TRUE(filter.ShouldPrint(MakeRun(1, v1::RUNNING, 0), start + absl::Seconds(61)));
  EXPECT_FALSE(filter.ShouldPrint(MakeRun(1, v1::RUNNING, 9), start + absl::Seconds(62)));
  EXPECT_TRUE(filter.ShouldPrint(MakeRun(1, v1::RUNNING, 30), start + absl::Seconds(66)));
  v1::Run evaluated = MakeRun(1, v1::RUNNING, 31);
  evaluated.mutable_progress()->mutable_eval()->set_step(31);
  EXPECT_TRUE(filter.ShouldPrint(evaluated, start + absl::Seconds(67)));
}

}  // namespace
}  // namespace normlab::cli
