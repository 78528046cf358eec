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
  EXPECT_EQ(CountText(999.4), "999");
  EXPECT_EQ(CountText(999.7), "1.00k");
  EXPECT_EQ(BytesText(999), "999 B");
  EXPECT_EQ(BytesText(3'100'000), "3.10 MB");
}

TEST(HistoryTextTest, CountsWhatIsStoredAndWhatIsMissing) {
  v1::HistorySummary summary;
  EXPECT_EQ(HistoryText(summary), "");
  summary.set_num_steps(1);
  summary.set_first_step(10);
  summary.set_last_step(10);
  EXPECT_EQ(HistoryText(summary), "report of step 10");
  summary.set_num_steps(598);
  summary.set_first_step(1);
  summary.set_last_step(600);
  summary.set_num_missing(1);
  summary.set_num_gaps(1);
  summary.add_gaps()->set_after_step(119);
  summary.mutable_gaps(0)->set_before_step(121);
  EXPECT_EQ(HistoryText(summary),
            "reports of 598 steps from 1 to 600; 1 report is missing in 1 gap, between 119 and 121");
  summary.set_num_missing(12);
  summary.set_num_gaps(2);
  EXPECT_THAT(HistoryText(summary), HasSubstr("12 reports are missing in 2 gaps, between 119 and 121"));
  summary.set_num_log_lines_dropped(1);
  EXPECT_THAT(HistoryText(summary), HasSubstr("; the oldest log line was dropped"));
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
  const auto lines = DrawRuns("exp-0001", ById({MakeRun(1, v1::RUNNING, 50)}), {}, {.columns = 120, .rows = 10});
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_EQ(lines[0], "exp-0001");
  EXPECT_THAT(lines[1],
              AllOf(HasSubstr("exp-0001.01  lns  ████████████░░░░░░░░░░░░"), HasSubstr("50/100"),
                    HasSubstr("loss 5.2500"), HasSubstr("RUNNING"), HasSubstr("50 tok/s"), HasSubstr("ETA 1m 40s")));
}

TEST(DrawRunsTest, NoLineIsWiderThanTheTerminal) {
  v1::Run waiting = MakeRun(2, v1::QUEUED, 0);
  waiting.set_reason(std::string(300, 'r'));
  const TrendsById trends = {{RunId{{1}, 1}, {.losses = std::vector<double>(50, 2.5), .variances = {1, 2, 4}}}};
  for (const int columns : {10, 40, 60, 80, 200}) {
    for (const std::string& line : DrawRuns("a title", ById({MakeRun(1, v1::RUNNING, 50), waiting}), trends,
                                            {.columns = columns, .rows = 10, .is_colored = true})) {
      EXPECT_LE(DisplayWidth(line), columns) << line;
    }
  }
}

TEST(DrawRunsTest, WhatDoesNotFitIsCountedAndRunningRunsStay) {
  std::vector<v1::Run> runs;
  for (int i = 1; i <= 20; ++i) runs.push_back(MakeRun(i, i == 20 ? v1::RUNNING : v1::SUCCEEDED, 100));
  const auto lines = DrawRuns("title", ById(runs), {}, {.columns = 120, .rows = 6});
  ASSERT_THAT(lines, SizeIs(6));
  EXPECT_THAT(lines[1], HasSubstr("exp-0001.20"));
  EXPECT_EQ(lines.back(), "... and 16 more; all: normlab list");
}

TEST(DrawRunsTest, ADivergedRunSaysSo) {
  v1::Run run = MakeRun(1, v1::SUCCEEDED, 100);
  run.mutable_progress()->set_diverged(true);
  EXPECT_THAT(DrawRuns("t", ById({run}), {}, {.columns = 120, .rows = 10})[1], HasSubstr("SUCCEEDED, diverged"));
}

TEST(DrawRunsTest, SparklinesStandUnderTheirHeadings) {
  const TrendsById trends = {{RunId{{1}, 1}, {.losses = {8, 4, 2, 1}, .variances = {1, 10, 100}}}};
  const auto lines = DrawRuns("t", ById({MakeRun(1, v1::RUNNING, 50)}), trends, {.columns = 140, .rows = 10});
  ASSERT_THAT(lines, SizeIs(3));
  const auto column_of = [](const std::string& line, const char* text) {
    return DisplayWidth(line.substr(0, line.find(text)));
  };
  EXPECT_THAT(lines[2], AllOf(HasSubstr("█▄▂▁"), HasSubstr("▁▅█")));
  EXPECT_EQ(column_of(lines[1], "loss"), column_of(lines[2], "█▄▂▁"));
  EXPECT_EQ(column_of(lines[1], "variance by layer (log)"), column_of(lines[2], "▁▅█"));
}

TEST(DrawRunsTest, WithoutUnicodeEveryLineIsAscii) {
  const TrendsById trends = {{RunId{{1}, 1}, {.losses = {8, 4, 2, 1}, .variances = {1, 10, 100}}}};
  const auto lines =
      DrawRuns("t", ById({MakeRun(1, v1::RUNNING, 50)}), trends, {.columns = 140, .rows = 10, .is_unicode = false});
  for (const std::string& line : lines) {
    for (const char c : line) EXPECT_GT(c, 0) << line;
  }
  EXPECT_THAT(lines[2], AllOf(HasSubstr("####"), HasSubstr("#-._")));
}

TEST(DrawRunsTest, WhereThereIsNoRoomTheVariancesGoFirst) {
  const TrendsById trends = {{RunId{{1}, 1}, {.losses = {8, 4, 2, 1}, .variances = {1, 10, 100}}}};
  const RunsById runs = ById({MakeRun(1, v1::RUNNING, 50)});
  EXPECT_THAT(DrawRuns("t", runs, trends, {.columns = 96, .rows = 10})[2],
              AllOf(HasSubstr("█▄▂▁"), Not(HasSubstr("▁▅█"))));
  EXPECT_THAT(DrawRuns("t", runs, trends, {.columns = 80, .rows = 10})[2], Not(HasSubstr("█▄▂▁")));
}

TEST(ExtendTest, KeepsLossesInOrderAndTheLastVariances) {
  std::vector<v1::StepHistory> history(3);
  for (int i = 0; i < 3; ++i) {
    history[i].set_step(i + 1);
    history[i].mutable_report()->set_loss(5 - i);
  }
  history[1].mutable_layers()->add_layers()->set_output_variance(7);
  history[2].clear_report();
  Trend trend;
  Extend(history, &trend);
  EXPECT_EQ(trend.last_step, 3);
  EXPECT_THAT(trend.losses, ElementsAre(5, 4));
  EXPECT_THAT(trend.variances, ElementsAre(7));
}

TEST(SparklineTest, ShowsMeansOfWhatDoesNotFitAndMarksWhatIsNoNumber) {
  EXPECT_EQ(Sparkline({}, 8), "");
  EXPECT_EQ(Sparkline({3, 3}, 8), "▁▁");
  EXPECT_EQ(Sparkline({0, 0, 7, 7}, 2), "▁█");
  EXPECT_EQ(Sparkline({0, std::numeric_limits<double>::quiet_NaN(), 7}, 8, false), "_!#");
}

TEST(ParseMomentTest, TakesDatesAndAges) {
  const absl::Time now = absl::FromUnixSeconds(1'800'000'000);
  const absl::TimeZone utc = absl::UTCTimeZone();
  EXPECT_EQ(*ParseMoment("90m", now, utc), now - absl::Minutes(90));
  EXPECT_EQ(*ParseMoment("2d", now, utc), now - absl::Hours(48));
  EXPECT_EQ(*ParseMoment("2026-01-31", now, utc), absl::FromCivil(absl::CivilDay(2026, 1, 31), utc));
  EXPECT_EQ(*ParseMoment("2026-01-31 12:30", now, utc), absl::FromCivil(absl::CivilMinute(2026, 1, 31, 12, 30), utc));
  for (const char* wrong : {"", "d", "-2d", "2y", "yesterday", "2026-13-01"}) {
    EXPECT_FALSE(ParseMoment(wrong, now, utc).ok()) << wrong;
  }
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
