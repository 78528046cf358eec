#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <string>

#include "tests/simulation/world.h"

// That the simulation is what it claims to be: repeatable, everywhere, and not blind. The many seeds are run by
// normlab-simulate; see CMakeLists.txt.
namespace normlab::simulation {
namespace {

constexpr int kSeedsForCoverage = 300;
constexpr int kSeedsForPlant = 300;

class SimulationTest : public testing::Test {
 protected:
  void SetUp() override { spdlog::set_level(spdlog::level::off); }
};

TEST_F(SimulationTest, ASeedAlwaysGivesTheSameRun) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    EXPECT_EQ(Simulate(seed, /*traces=*/false).fingerprint, Simulate(seed, /*traces=*/true).fingerprint) << seed;
  }
}

TEST_F(SimulationTest, ComesToEveryCorner) {
  Coverage coverage;
  for (uint64_t seed = 0; seed < kSeedsForCoverage; ++seed) coverage.Add(Simulate(seed, /*traces=*/false).coverage);
  for (const engine::Transition& transition : engine::kTransitions) {
    EXPECT_TRUE(coverage.moves.contains({transition.from, transition.to}))
        << Name(transition.from) << " -> " << Name(transition.to) << " was never seen";
  }
  for (int i = 0; i < kNumFaults; ++i) EXPECT_GT(coverage.faults[static_cast<size_t>(i)], 0) << kFaultNames[i];
  EXPECT_GT(coverage.lost_commits, 0);
  EXPECT_GT(coverage.kept_commits, 0);
  EXPECT_GT(coverage.log_lines, 0);
  EXPECT_GT(coverage.leases_lost, 0);
  EXPECT_GT(coverage.preemptions, 0);
  EXPECT_GT(coverage.unanswered, 0);
  // A fault that is drawn may find nothing to hit, and a check that is not reached says nothing.
  EXPECT_GT(coverage.failed_commits, 0);
  EXPECT_GT(coverage.killed_trainers, 0);
  EXPECT_GT(coverage.restarts, 0);
  EXPECT_GT(coverage.attempts, 0);
  EXPECT_GT(coverage.acknowledged, 0);
  EXPECT_GT(coverage.reads, 0);
  EXPECT_GT(coverage.resyncs, 0);
  EXPECT_GT(coverage.resumes, 0);
  EXPECT_GT(coverage.overruns, 0);
}

class PlantTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { spdlog::set_level(spdlog::level::off); }
};

TEST_P(PlantTest, IsFound) {
  for (uint64_t seed = 0; seed < kSeedsForPlant; ++seed) {
    const Outcome outcome = Simulate(seed, /*traces=*/false, static_cast<Plant>(GetParam()));
    if (outcome.broken.empty()) continue;
    std::printf("%s: found by seed %llu: %s\n", kPlantNames[GetParam()], static_cast<unsigned long long>(seed),
                outcome.broken.c_str());
    return;
  }
  FAIL() << "no seed of " << kSeedsForPlant << " breaks a rule";
}

INSTANTIATE_TEST_SUITE_P(Bugs, PlantTest, testing::Range(1, kNumPlants), [](const auto& info) {
  std::string name = kPlantNames[info.param];
  std::erase(name, '-');
  return name;
});

}  // namespace
}  // namespace normlab::simulation
