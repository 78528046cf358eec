#include <gtest/gtest.h>

#include "coordinator/scheduler/simulation/world.h"

// The engine and the scheduler under simulated workers, users and faults. A failure names its seed, which repeats it.
namespace normlab::simulation {
namespace {

constexpr int kSeedsPerTest = 40;
constexpr int kRoundsWithFaults = 150;
constexpr int kCalmRoundsMax = 1500;

class SimulationTest : public testing::TestWithParam<int> {};

TEST_P(SimulationTest, KeepsItsRulesUnderFaultsAndEndsEveryRunWhenTheyStop) {
  std::set<std::pair<engine::RunState, engine::RunState>> moves;
  for (int i = 0; i < kSeedsPerTest; ++i) {
    const int seed = GetParam() * kSeedsPerTest + i;
    World world(static_cast<uint64_t>(seed));
    for (int round = 0; round < kRoundsWithFaults; ++round) {
      world.RoundWithFaults();
      ASSERT_EQ(world.broken(), "") << "seed " << seed << ", round " << round << "\n" << world.Text();
    }
    world.Mend();
    int round = 0;
    while (round < kCalmRoundsMax && !world.IsSettled()) {
      ++round;
      world.CalmRound();
      ASSERT_EQ(world.broken(), "") << "seed " << seed << ", calm round " << round << "\n" << world.Text();
    }
    ASSERT_TRUE(world.IsSettled()) << "seed " << seed << " does not come to an end in " << round << " calm rounds\n"
                                   << world.Text();
    moves.insert(world.moves().begin(), world.moves().end());
  }
  // A simulation that does not come to every corner of the table shows little.
  for (const engine::Transition& transition : engine::kTransitions) {
    EXPECT_TRUE(moves.contains({transition.from, transition.to}))
        << Name(transition.from) << " -> " << Name(transition.to) << " was never seen";
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SimulationTest, testing::Range(0, 10));

}  // namespace
}  // namespace normlab::simulation
