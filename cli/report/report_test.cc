#include "cli/report/report.h"

#include <gmock/gmock.h>

#include "cli/report/history.h"
#include "cli/report/tables.h"
#include "cli/report/testing/sample_runs.h"

namespace normlab::report {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Optional;

using testing::MakeRun;

std::vector<std::string> LabelsOf(const Report& report) {
  std::vector<std::string> labels;
  for (const Arm& arm : report.arms) labels.push_back(arm.label);
  return labels;
}

TEST(ReportTest, OrdersArmsByLossAndComparesWithPreLnSeedBySeed) {
  const Input input = {.runs = {MakeRun({{"norm.scheme", "pre_ln"}, {"seed", "1"}}, 4.0),
                                MakeRun({{"norm.scheme", "pre_ln"}, {"seed", "2"}}, 4.2),
                                MakeRun({{"norm.scheme", "lns"}, {"seed", "1"}}, 3.9),
                                MakeRun({{"norm.scheme", "lns"}, {"seed", "2"}}, 4.0)}};
  const auto report = MakeReport(input, "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->baseline, "pre_ln");
  EXPECT_THAT(LabelsOf(*report), ElementsAre("lns", "pre_ln"));
  ASSERT_EQ(report->families.size(), 1);
  ASSERT_EQ(report->families[0].comparisons.size(), 1);
  const Comparison& lns = report->families[0].comparisons[0];
  EXPECT_EQ(lns.arm, "lns");
  EXPECT_EQ(lns.test.difference.n, 2);
  EXPECT_NEAR(lns.test.difference.value, -0.15, 1e-12);
}

TEST(ReportTest, AnArmIsComparedWithTheBaselinesNormWhereAllElseIsTheSame) {
  Input input;
  const std::vector<std::tuple<const char*, const char*, double>> runs = {
      {"12", "pre_ln", 5.0}, {"12", "lns", 4.9}, {"48", "pre_ln", 5.5}, {"48", "lns", 5.1}};
  for (const auto& [depth, scheme, loss] : runs) {
    input.runs.push_back(MakeRun({{"model.num_layers", depth}, {"norm.scheme", scheme}, {"seed", "1"}}, loss));
  }
  const auto report = MakeReport(input, "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->baseline, "pre_ln");
  EXPECT_THAT(report->shared_axes, ElementsAre("model.num_layers"));
  const std::vector<Comparison>& comparisons = report->families[0].comparisons;
  ASSERT_EQ(comparisons.size(), 2);
  EXPECT_EQ(comparisons[0].arm, "model.num_layers=12 norm.scheme=lns");
  EXPECT_EQ(comparisons[0].baseline, "model.num_layers=12 norm.scheme=pre_ln");
  EXPECT_NEAR(comparisons[0].test.difference.value, -0.1, 1e-12);
  EXPECT_EQ(comparisons[1].baseline, "model.num_layers=48 norm.scheme=pre_ln");
  EXPECT_NEAR(comparisons[1].test.difference.value, -0.4, 1e-12);

  const auto whole = MakeReport(input, "model.num_layers=12 norm.scheme=lns");
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(whole->families[0].comparisons.size(), 3) << "one arm may be the baseline of all";
  EXPECT_TRUE(whole->shared_axes.empty());
}

TEST(ReportTest, ARunThatWasTriedAgainSaysWhy) {
  RunRecord record = MakeRun({{"norm.scheme", "pre_ln"}, {"seed", "1"}}, 4.0);
  record.run.set_attempt(2);
  v1::Event& event = record.events.emplace_back();
  event.set_state(v1::QUEUED);
  event.set_attempt(1);
  event.set_reason("attempt 1 was lost: worker w1 was lost");
  const auto report = MakeReport({.runs = {record}}, "");
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->arms[0].groups[0].runs[0].reason, "attempt 1 was lost: worker w1 was lost");
}

TEST(ReportTest, WhatRetentionRemovedIsUnknownAndNotZero) {
  RunRecord whole = MakeRun({{"norm.scheme", "lns"}, {"seed", "1"}}, 4.0);
  whole.events = {testing::EventAt(0, v1::STARTING), testing::StartedEvent("0.1.0+a"),
                  testing::EventAt(7200, v1::SUCCEEDED)};
  whole.events[1].mutable_time()->set_seconds(3600);
  RunRecord expired = MakeRun({{"norm.scheme", "lns"}, {"seed", "2"}}, 4.0);
  expired.run.set_attempt(3);
  *expired.run.mutable_environment() = whole.events[1].environment();
  expired.has_events_expired = true;
  RunRecord alone = MakeRun({{"norm.scheme", "pre_ln"}, {"seed", "1"}}, 4.5);
  alone.has_events_expired = true;
  const auto report = MakeReport({.runs = {whole, expired, alone}}, "");
  ASSERT_TRUE(report.ok());
  EXPECT_THAT(report->arms[0].groups[0].runs[0].worker_hours, Optional(DoubleNear(2, 1e-12)));
  EXPECT_EQ(report->arms[0].groups[0].runs[1].worker_hours, std::nullopt);
  EXPECT_EQ(CostTable(*report).rows[0].back(), "2.00 (1 of 2 runs)");
  EXPECT_EQ(CostTable(*report).rows[1].back(), "–");
  ASSERT_EQ(report->environments.size(), 1);
  EXPECT_EQ(report->environments[0].attempts, 2) << "the run keeps the environment of its last attempt";
  EXPECT_EQ(report->attempts_unknown, 3) << "two of the second run, one of the third";
}

TEST(ReportTest, LayersAreIdleOnlyBesideOnesThatCostSomething) {
  RunRecord useful = MakeRun({{"norm.scheme", "lns"}, {"seed", "1"}}, 4.0);
  useful.history.push_back(testing::AnalyzedStep(10, {1, 0.05, 1}, 0.5));
  RunRecord useless = MakeRun({{"norm.scheme", "pre_ln"}, {"seed", "1"}}, 4.5);
  useless.history.push_back(testing::AnalyzedStep(10, {-0.1, -0.2, 1}, 0.5));
  const auto report = MakeReport({.runs = {useful, useless}}, "");
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(RemovalTable(*report).rows[0].back(), "1");
  EXPECT_EQ(RemovalTable(*report).rows[1].back(), "–");
}

TEST(ReportTest, ADivergedRunIsShownAsSuchAndHasNoLoss) {
  RunRecord diverged = MakeRun({{"norm.scheme", "post_ln"}, {"seed", "1"}}, 9.0);
  diverged.run.mutable_progress()->set_diverged(true);
  const auto report = MakeReport({.runs = {diverged, MakeRun({{"norm.scheme", "pre_ln"}, {"seed", "1"}}, 4.0)}}, "");
  ASSERT_TRUE(report.ok());
  EXPECT_THAT(LabelsOf(*report), ElementsAre("pre_ln", "post_ln"));
  const Group& group = report->arms[1].groups[0];
  EXPECT_EQ(group.loss, std::nullopt);
  EXPECT_EQ(group.num_diverged, 1);
  EXPECT_EQ(group.runs[0].outcome, "diverged");
  EXPECT_EQ(report->families[0].comparisons[0].unpaired, 1);
}

TEST(ReportTest, ChoosesTheBestLearningRateOfEachArmAndComparesAtEachRateAsWell) {
  const auto run = [](const char* scheme, const char* lr, const char* seed, double loss) {
    RunRecord record = MakeRun({{"norm.scheme", scheme}, {"train.lr", lr}, {"seed", seed}}, loss);
    record.run.mutable_spec()->mutable_train()->set_lr(std::stod(lr));
    return record;
  };
  Input input;
  for (const char* seed : {"1", "2"}) {
    input.runs.push_back(run("pre_ln", "0.001", seed, 4.0));
    input.runs.push_back(run("pre_ln", "0.01", seed, 5.0));
    input.runs.push_back(run("lns", "0.001", seed, 4.5));
    input.runs.push_back(run("lns", "0.01", seed, 3.5));
  }
  const auto report = MakeReport(input, "");
  ASSERT_TRUE(report.ok());
  EXPECT_THAT(report->learning_rates, ElementsAre("0.001", "0.01"));
  ASSERT_EQ(report->families.size(), 3);
  EXPECT_EQ(report->families[0].comparisons[0].lr, "0.01");
  EXPECT_EQ(report->families[0].comparisons[0].baseline_lr, "0.001");
  EXPECT_NEAR(report->families[0].comparisons[0].test.difference.value, -0.5, 1e-12);
  EXPECT_NEAR(report->families[1].comparisons[0].test.difference.value, 0.5, 1e-12);
  EXPECT_NEAR(report->families[2].comparisons[0].test.difference.value, -1.5, 1e-12);
}

TEST(ReportTest, ARateAtWhichMoreSeedsSurviveIsBetterThanOneLuckySeed) {
  const auto run = [](const char* lr, const char* seed, double loss, bool has_diverged) {
    RunRecord record = MakeRun({{"norm.scheme", "lns"}, {"train.lr", lr}, {"seed", seed}}, loss);
    record.run.mutable_spec()->mutable_train()->set_lr(std::stod(lr));
    record.run.mutable_progress()->set_diverged(has_diverged);
    return record;
  };
  const auto report = MakeReport({.runs = {run("0.001", "1", 4, false), run("0.001", "2", 4, false),
                                           run("0.01", "1", 3, false), run("0.01", "2", 9, true)}},
                                 "");
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->arms[0].groups[report->arms[0].best].lr, "0.001");
}

TEST(ReportTest, ABaselineThatIsNoArmIsRefusedWithTheNearestName) {
  const auto report = MakeReport({.runs = {MakeRun({{"norm.scheme", "pre_ln"}}, 4)}}, "preln");
  EXPECT_FALSE(report.ok());
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("pre_ln"));
}

TEST(HistoryTest, ACurveIsTheMeanOverRunsWithTheirRange) {
  const History low = testing::LossHistory({4, 3, 2}), high = testing::LossHistory({6, 5, 4});
  const Curve curve = TrainLossCurve({&low, &high});
  ASSERT_EQ(curve.points.size(), 3);
  EXPECT_EQ(curve.points[2].step, 3);
  EXPECT_EQ(curve.points[2].mean, 3);
  EXPECT_EQ(curve.points[2].low, 2);
  EXPECT_EQ(curve.points[2].high, 4);
}

TEST(HistoryTest, ALongCurveIsAveragedOverStretches) {
  const History history = testing::LossHistory(std::vector<double>(100'000, 2.5));
  const Curve curve = TrainLossCurve({&history});
  EXPECT_LE(curve.points.size(), kCurvePointsMax);
  EXPECT_EQ(curve.points.back().mean, 2.5);
}

TEST(HistoryTest, ProfilesAreTakenFromTheFirstToTheLastReport) {
  const History history = testing::LayerHistory({10, 20, 30, 40, 50, 60, 70, 80, 90}, {1, 2, 4});
  const std::vector<LayerProfile> profiles = VarianceProfiles({&history});
  ASSERT_EQ(profiles.size(), kProfilesMax);
  EXPECT_EQ(profiles.front().step, 10);
  EXPECT_EQ(profiles.back().step, 90);
  EXPECT_THAT(profiles.back().values, ElementsAre(1, 2, 4));
}

TEST(HistoryTest, OnlyTheTimeWithAGangIsReserved) {
  const std::vector<v1::Event> events = {testing::EventAt(0, v1::QUEUED),       testing::EventAt(3600, v1::STARTING),
                                         testing::EventAt(3660, v1::RUNNING),   testing::EventAt(7200, v1::QUEUED),
                                         testing::EventAt(9000, v1::STARTING),  testing::EventAt(9000, v1::RUNNING),
                                         testing::EventAt(10800, v1::SUCCEEDED)};
  EXPECT_NEAR(ReservedHours(events), 1.5, 1e-12);
}

}  // namespace
}  // namespace normlab::report
