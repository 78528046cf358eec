#include "cli/report/heat_map.h"

#include <gmock/gmock.h>

#include "cli/report/chart.h"
#include "cli/report/render.h"
#include "cli/report/study.h"
#include "cli/report/tables.h"
#include "cli/report/testing/sample_runs.h"

namespace normlab::report {
namespace {

using testing::AnalyzedStep;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MakeRun;
using ::testing::Not;
using testing::StartedEvent;

TEST(HeatMapTest, OneScaleReachesFromTheSmallestToTheLargestValueOfAllMaps) {
  const Triangle near = {{0.1, 0.2}, {0.15}}, far = {{0.3, 0.5}, {0.4}};
  const ColorScale scale = ScaleOf({&near, &far});
  EXPECT_EQ(scale.low, 0.1);
  EXPECT_EQ(scale.high, 0.5);
  EXPECT_THAT(HeatMapSvg("near", near, scale), HasSubstr("heat h0"));
  EXPECT_THAT(HeatMapSvg("near", near, scale), Not(HasSubstr("heat h11")));
  EXPECT_THAT(HeatMapSvg("far", far, scale), HasSubstr("heat h11"));
}

TEST(HeatMapTest, EqualValuesHaveAColourAndNoValuesNoMap) {
  const Triangle flat = {{0.25, 0.25}, {0.25}};
  EXPECT_THAT(HeatMapSvg("flat", flat, ScaleOf({&flat})), HasSubstr("heat h0"));
  EXPECT_EQ(HeatMapSvg("none", {}, ScaleOf({})), "");
}

TEST(BarsTest, StandOnZeroAlsoWhereALossGetsBetter) {
  Chart chart{.title = "t", .is_bars = true};
  chart.lines = {{"a", "c0", {{1, 0.5, 0.5, 0.5}, {2, -0.25, -0.5, 0}}}};
  EXPECT_EQ(RangeOf(chart), std::pair(-0.5, 0.5));
  const std::string svg = ToSvg(chart);
  EXPECT_THAT(svg, HasSubstr("<rect"));
  EXPECT_THAT(svg, HasSubstr("whisker"));
}

TEST(StudyTest, IsTheMeanOfEachRunsNewestAnalysis) {
  const std::vector<v1::StepHistory> first = {AnalyzedStep(10, {9, 9}, 0.1), AnalyzedStep(20, {1, 2}, 0.5)};
  const std::vector<v1::StepHistory> second = {AnalyzedStep(30, {3, 2}, 0.25)};
  const std::vector<v1::StepHistory> none(1);
  const auto study = MeanStudy({&first, &second, &none});
  ASSERT_TRUE(study);
  EXPECT_EQ(study->num_runs, 2);
  EXPECT_THAT(study->steps, ElementsAre(20, 30));
  EXPECT_THAT(study->removal.mean, ElementsAre(2, 2));
  EXPECT_THAT(study->removal.low, ElementsAre(1, 2));
  EXPECT_THAT(study->removal.high, ElementsAre(3, 2));
  EXPECT_THAT(study->distances, ElementsAre(ElementsAre(0.1875, 0.375), ElementsAre(0.1875)));
  EXPECT_FALSE(MeanStudy({&none}));
}

TEST(StudyTest, APartThatWasNotMeasuredOfAllRunsIsLeftOut) {
  std::vector<v1::StepHistory> first = {AnalyzedStep(10, {1, 2}, 0.5)};
  first[0].mutable_analysis()->mutable_layers(0)->clear_angular_distance();
  first[0].mutable_analysis()->mutable_layers(1)->clear_loss_without();
  const auto study = MeanStudy({&first});
  ASSERT_TRUE(study);
  EXPECT_TRUE(study->distances.empty());
  EXPECT_TRUE(study->removal.mean.empty());
  EXPECT_EQ(study->jacobian.mean.size(), 2);
}

Report ReportOf(const std::string& second_build, bool is_analyzed) {
  RunRecord first = MakeRun({{"norm.scheme", "pre_ln"}, {"seed", "1"}}, 4);
  RunRecord second = MakeRun({{"norm.scheme", "lns"}, {"seed", "1"}}, 3.5);
  second.run.set_id("exp-0001.02");
  first.events = {StartedEvent("0.1.0+a")};
  second.events = {StartedEvent(second_build)};
  if (is_analyzed) first.history = {AnalyzedStep(20, {0.5, 0.25}, 0.5)};
  return *MakeReport({.runs = {first, second}, .coordinator_build = "0.1.0+c", .report_build = "0.1.0+r"}, "");
}

TEST(StudyTest, ThePageNamesTheCommandThatMakesWhatIsMissing) {
  const std::string without = ToHtml(ReportOf("0.1.0+a", false));
  EXPECT_THAT(without, HasSubstr("No run of this experiment has been analyzed"));
  EXPECT_THAT(without, HasSubstr("normlab analyze exp-0001.01 --out analysis/exp-0001.01    # pre_ln"));
  const std::string with = ToHtml(ReportOf("0.1.0+a", true));
  EXPECT_THAT(with, HasSubstr("One colour scale"));
  EXPECT_THAT(with, HasSubstr("layer removed"));
  EXPECT_THAT(with, HasSubstr("Arms without an analysis"));
  EXPECT_THAT(with, HasSubstr("normlab analyze exp-0001.02"));
  EXPECT_THAT(with, Not(HasSubstr("normlab analyze exp-0001.01")));
}

TEST(EnvironmentTest, RunsOfTwoBuildsAreShownAndWarnedOf) {
  const Report same = ReportOf("0.1.0+a", false), mixed = ReportOf("0.1.0+b", false);
  ASSERT_EQ(same.environments.size(), 1);
  EXPECT_EQ(same.environments[0].attempts, 2);
  EXPECT_THAT(same.environments[0].runs, ElementsAre("exp-0001.01", "exp-0001.02"));
  EXPECT_EQ(mixed.environments.size(), 2);
  EXPECT_THAT(ToHtml(same), Not(HasSubstr("not all trained by the same build")));
  for (const std::string& text : {ToHtml(mixed), ToMarkdown(mixed)}) {
    EXPECT_THAT(text, HasSubstr("not all trained by the same build"));
    EXPECT_THAT(text, HasSubstr("0.1.0+b"));
  }
}

TEST(EnvironmentTest, AnAttemptOfBeforeEnvironmentsWereStoredIsCountedAsNotRecorded) {
  RunRecord run = MakeRun({{"norm.scheme", "pre_ln"}}, 4);
  run.events = {testing::EventAt(0, v1::QUEUED), testing::EventAt(1, v1::RUNNING), testing::EventAt(2, v1::RUNNING)};
  const Report report = *MakeReport({.runs = {run}}, "");
  EXPECT_EQ(report.attempts_unknown, 1);
  EXPECT_EQ(EnvironmentTable(report).rows[0][0], "not recorded");
}

}  // namespace
}  // namespace normlab::report
