#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>

#include "coordinator/engine/engine.h"
#include "coordinator/scheduler/scheduler.h"
#include "coordinator/scheduler/testing/large_state.h"

// 10,000 workers and 100,000 queued runs. The limits are many times what a quiet machine needs: they catch a pass that
// is not one pass any more, not a slow machine.
namespace normlab::scheduler {
namespace {

constexpr int kNumWorkers = 10'000;
constexpr int kNumRuns = 100'000;

class ScaleTest : public testing::Test {
 protected:
  void AddWorkers() { ASSERT_TRUE(scheduler::AddWorkers(state_, kNumWorkers).ok()); }

  void AddRuns(int world_size, const std::map<std::string, std::string>& worker_labels) {
    ASSERT_TRUE(scheduler::AddRuns(state_, kNumRuns, world_size, worker_labels).ok());
  }

  /// Milliseconds of the best of three passes; `placements` are those of the last.
  double TimePass(std::vector<Placement>& placements) {
    double best = 1e9;
    for (int i = 0; i < 3; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      placements = Schedule(state_, policy_, now_).placements;
      const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - begin;
      best = std::min(best, elapsed.count());
    }
    fmt::print("{}: {:.2f} ms, {} gangs\n", testing::UnitTest::GetInstance()->current_test_info()->name(), best,
               placements.size());
    return best;
  }

  engine::Policy policy_;
  engine::State state_;
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(ScaleTest, APassWhereNothingFitsIsShort) {
  AddWorkers();
  AddRuns(6000, {{"gpu", "h100"}});
  AddRuns(1, {{"gpu", "none"}});
  std::vector<Placement> placements;
  EXPECT_LT(TimePass(placements), 200);
  EXPECT_TRUE(placements.empty());
}

TEST_F(ScaleTest, APassThatFillsTheClusterIsShort) {
  AddWorkers();
  AddRuns(1, {});
  AddRuns(4, {{"gpu", "h100"}});
  std::vector<Placement> placements;
  EXPECT_LT(TimePass(placements), 1000);
  EXPECT_EQ(placements.size(), kNumWorkers);
}

TEST_F(ScaleTest, GangsOverManyHostsArePlacedInOnePass) {
  AddWorkers();
  AddRuns(16, {});
  AddRuns(1, {{"gpu", "h100"}});
  std::vector<Placement> placements;
  EXPECT_LT(TimePass(placements), 5000);
  EXPECT_EQ(placements.size(), kNumWorkers / 16);
}

TEST_F(ScaleTest, ABusyClusterCostsNothing) {
  AddRuns(1, {});
  std::vector<Placement> placements;
  EXPECT_LT(TimePass(placements), 5);
}

TEST_F(ScaleTest, HeartbeatsAndTicksOfManyWorkersAreShort) {
  AddWorkers();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kNumWorkers; ++i) {
    ASSERT_TRUE(ApplyAtEpoch(state_, engine::WorkerHeartbeat{{fmt::format("worker-{:05}", i)}, "a"}).ok());
    ASSERT_TRUE(ApplyAtEpoch(state_, engine::Tick()).ok());
    ASSERT_TRUE(NextDeadline(state_));
  }
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - begin;
  fmt::print("{} heartbeats, ticks and deadlines: {:.1f} ms\n", kNumWorkers, elapsed.count());
  EXPECT_LT(elapsed.count(), 2000);
}

}  // namespace
}  // namespace normlab::scheduler
