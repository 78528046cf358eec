#include <gtest/gtest.h>

#include <chrono>

#include "coordinator/engine/engine.h"
#include "coordinator/engine/testing/script.h"

namespace normlab::engine {
namespace {

constexpr int kNumRuns = 10'000;

class CancelTest : public testing::Test {
 protected:
  /// Two experiments of kNumRuns, the first with the label team=a.
  void SetUp() override {
    for (const char* team : {"a", "b"}) {
      CreateExperiment create = {.request_id = team, .owner = "ada", .labels = {{"team", team}}};
      create.runs.resize(kNumRuns);
      ASSERT_TRUE(Apply(options_, state_, create, now_, changes_).ok());
    }
    changes_ = Changes();
  }

  void CancelAndCheck(const Selector& selector) {
    const auto begin = std::chrono::steady_clock::now();
    const auto reply = Apply(options_, state_, CancelRuns{selector, "bob", ""}, now_, changes_);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(std::get<RunsChanged>(*reply).changes.size(), kNumRuns);
    EXPECT_EQ(changes_.events.size(), kNumRuns);
    EXPECT_EQ(state_.queue.size(), kNumRuns);
    RecordProperty("milliseconds", static_cast<int>(elapsed.count() * 1000));
    EXPECT_LT(elapsed.count(), 1.0);  // About 0.02 s here; far above, the cost is not linear any more.
  }

  Options options_;
  State state_;
  absl::Time now_ = absl::UnixEpoch();
  Changes changes_;
};

TEST_F(CancelTest, OfTenThousandRunsByLabelTakesOneShortCommand) { CancelAndCheck({.labels = {{"team", "a"}}}); }

TEST_F(CancelTest, OfTenThousandNamedRunsTakesOneShortCommand) {
  Selector selector;
  for (int i = kNumRuns; i > 0; --i) selector.runs.push_back({{1}, i});
  CancelAndCheck(selector);
}

TEST(MatchesTest, AnEmptySelectorChoosesEverythingAndFieldsAreANDed) {
  engine::Run run;
  run.id = {{1}, 2};
  run.info = std::make_shared<RunInfo>(RunInfo{.labels = {{"team", "a"}, {"kind", "nightly"}}});
  EXPECT_TRUE(Matches({}, run));
  EXPECT_TRUE(Matches({.experiment = ExperimentId{1}, .labels = {{"team", "a"}}, .states = {RunState::kQueued}}, run));
  EXPECT_FALSE(Matches({.experiment = ExperimentId{2}, .labels = {{"team", "a"}}}, run));
  EXPECT_FALSE(Matches({.labels = {{"team", "a"}, {"kind", "manual"}}}, run));
  EXPECT_FALSE(Matches({.states = {RunState::kFailed, RunState::kRunning}}, run));
  EXPECT_TRUE(Matches({.runs = {{{1}, 1}, {{1}, 2}}}, run));
  EXPECT_FALSE(Matches({.runs = {{{1}, 1}}}, run));
}

}  // namespace
}  // namespace normlab::engine
