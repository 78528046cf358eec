#include <absl/strings/str_join.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "coordinator/engine/engine.h"
#include "coordinator/engine/testing/script.h"
#include "coordinator/scheduler/scheduler.h"

// Shares, quotas, aging, preemption, and that nothing starves.
namespace normlab::scheduler {
namespace {

using engine::Script;
using testing::ElementsAre;
using testing::IsEmpty;

void Do(Script& script, std::initializer_list<const char*> commands) {
  for (const char* command : commands) script.Do(command);
}

std::vector<std::string> Place(const Script& script) {
  std::vector<std::string> placements;
  for (const Placement& placement : Schedule(script.state(), script.policy(), script.now()).placements) {
    placements.push_back(
        placement.run.ToString() + " on " +
        absl::StrJoin(placement.gang, " ", [](std::string* out, const WorkerId& id) { *out += id.name; }));
  }
  return placements;
}

std::vector<std::string> Preempt(const Script& script) {
  std::vector<std::string> preemptions;
  for (const Preemption& preemption : Schedule(script.state(), script.policy(), script.now()).preemptions) {
    preemptions.push_back(preemption.run.ToString() + " for " + preemption.beneficiary.ToString());
  }
  return preemptions;
}

TEST(SharingTest, UsersOfOnePriorityTakeTurns) {
  Script script;
  Do(script, {"submit 3", "submit 2 owner=eve", "hello w1", "hello w2", "hello w3", "hello w4"});
  EXPECT_THAT(Place(script),
              ElementsAre("exp-0001.01 on w1", "exp-0002.01 on w2", "exp-0001.02 on w3", "exp-0002.02 on w4"));
}

TEST(SharingTest, WhoHasHadMoreLatelyComesLater) {
  Script script;
  Do(script,
     {"policy half_life=1000", "submit 1", "hello w1", "place exp-0001.01 w1", "wait 20",
      "report w1 exp-0001.01#1/0 finished 9", "report w1 exp-0001.01#1/0 exit 0", "submit 1", "submit 1 owner=eve"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0003.01 on w1"));
}

TEST(SharingTest, PriorityComesBeforeShares) {
  Script script;
  Do(script, {"submit 1 owner=eve", "submit 2 priority=1", "hello w1", "hello w2"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0002.01 on w1", "exp-0002.02 on w2"));
}

TEST(SharingTest, ARunGainsAPointOfPriorityForEachAgingTime) {
  Script script;
  Do(script, {"policy aging=100", "submit 1", "wait 100", "submit 1 priority=1 owner=eve", "hello w1"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on w1"));
}

TEST(SharingTest, NobodyIsGivenMoreWorkersThanHisQuota) {
  Script script;
  Do(script, {"policy workers=2", "submit 3", "submit 1 owner=eve", "hello w1", "hello w2", "hello w3", "hello w4"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on w1", "exp-0002.01 on w2", "exp-0001.02 on w3"));
}

TEST(SharingTest, AHeldRunIsPassedOver) {
  Script script;
  Do(script, {"submit 2", "hold exp-0001.01", "hello w1"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.02 on w1"));
}

TEST(SharingTest, AGangIsOfOneBuild) {
  Script script;
  Do(script, {"submit 1 world=2", "hello w1 build=1", "hello w2 build=2"});
  EXPECT_THAT(Place(script), IsEmpty());
  script.Do("hello w3 build=2");
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on w2 w3"));
}

TEST(SharingTest, ARunShrinksOnlyWhereItsFullGangDoesNotExist) {
  Script script;
  Do(script, {"submit 1 world=4 smaller=2,1", "hello w1", "hello w2", "hello w3"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on w1 w2"));
  Do(script, {"hello w4", "submit 1 priority=1", "place exp-0002.01 w4"});
  EXPECT_THAT(Place(script), IsEmpty()) << "w4 is only busy";
}

TEST(PreemptionTest, TakesTheLowestPriorityAfterItsMinimumTimeAndNoMoreThanNeeded) {
  Script script;
  Do(script, {"policy run_time_min=10", "submit 1", "submit 1 priority=1", "submit 1 on_preemption=never", "hello w1",
              "hello w2", "hello w3", "place exp-0001.01 w1", "place exp-0002.01 w2", "place exp-0003.01 w3",
              "report w1 exp-0001.01#1/0 started 1", "report w2 exp-0002.01#1/0 started 1",
              "report w3 exp-0003.01#1/0 started 1", "submit 1 priority=5"});
  EXPECT_THAT(Preempt(script), IsEmpty());
  script.Do("wait 10");
  EXPECT_THAT(Preempt(script), ElementsAre("exp-0001.01 for exp-0004.01"));
  script.Do("preempt exp-0001.01 exp-0004.01");
  EXPECT_THAT(Preempt(script), IsEmpty()) << "what stops already will do";
}

TEST(PreemptionTest, TakesNothingWhereItWouldNotBeEnough) {
  Script script;
  Do(script, {"policy run_time_min=0", "submit 1", "submit 1 priority=5", "hello w1", "hello w2",
              "place exp-0001.01 w1", "place exp-0002.01 w2", "report w1 exp-0001.01#1/0 started 1",
              "report w2 exp-0002.01#1/0 started 1", "submit 1 world=2 priority=5"});
  EXPECT_THAT(Preempt(script), IsEmpty());
}

TEST(ListWaitingTest, GivesTheOrderThenBackoffsThenHeldRunsInPages) {
  Script script;
  Do(script, {"submit 4", "submit 1 owner=eve", "hello w1", "place exp-0001.01 w1", "report w1 exp-0001.01#1/0 exit 1",
              "hold exp-0001.02"});
  std::vector<std::string> list;
  for (size_t offset = 0; offset < 6; offset += 2) {
    for (const Waiting& waiting : ListWaiting(script.state(), script.policy(), script.now(), offset, 2)) {
      list.push_back(fmt::format("{} {}", waiting.position, waiting.run.ToString()));
    }
  }
  EXPECT_THAT(list, ElementsAre("1 exp-0001.03", "2 exp-0002.01", "3 exp-0001.04", "0 exp-0001.01", "0 exp-0001.02"));
}

/// A cluster without faults under a stream of small runs: each round some runs end, new ones come, and gangs are
/// placed.
class Stream {
 public:
  explicit Stream(uint64_t seed) : dice_(seed) {
    options_.lease = absl::Hours(1000);
    options_.policy = {.usage_half_life = absl::Minutes(10), .aging = absl::Minutes(10)};
    for (int i = 0; i < 6; ++i) {
      engine::WorkerHello hello = {.worker = {fmt::format("w{}", i)}, .incarnation = "a"};
      hello.info.host = fmt::format("host-{}", i / 2);
      Apply(hello);
    }
  }

  RunId Submit(int world_size, int priority, const std::string& owner) {
    engine::CreateExperiment create = {
        .request_id = fmt::format("r{}", ++num_requests_), .owner = owner, .priority = priority};
    create.runs.push_back({.world_size = world_size, .on_preemption = engine::RequeuePolicy::kNever, .steps = 1});
    Apply(create);
    return {{num_requests_}, 1};
  }

  void Round() {
    now_ += absl::Minutes(1);
    for (int i = 0; i < 4; ++i) Submit(1 + Below(2), Below(3), fmt::format("user-{}", Below(3)));
    const std::set<RunId> live = state_.live_runs;
    for (const RunId& run : live) {
      if (Below(3) == 0) Finish(run);
    }
    for (const Placement& placement : Schedule(state_, options_.policy, now_).placements) {
      Apply(engine::PlaceRun{placement.run, placement.gang});
    }
  }

  const engine::Run& Get(RunId run) const { return state_.runs.at(run); }

 private:
  int Below(int n) { return std::uniform_int_distribution<>(0, n - 1)(dice_); }

  void Apply(const engine::Command& command) {
    engine::Changes changes;
    const auto reply = engine::Apply(options_, state_, command, now_, changes);
    ASSERT_TRUE(reply.ok()) << reply.status();
  }

  void Finish(RunId id) {
    const std::vector<WorkerId> gang = state_.runs.at(id).gang;
    for (int rank = 0; rank < static_cast<int>(gang.size()); ++rank) {
      const engine::AttemptRef ref = {id, 1, rank};
      if (rank == 0)
        Apply(engine::WorkerReport{gang[0], "a", ++sequence_, ref, now_, engine::TrainerFinished{1, false}});
      Apply(engine::WorkerReport{gang[static_cast<size_t>(rank)], "a", ++sequence_, ref, now_,
                                 engine::TrainerExited{.code = 0}});
    }
  }

  std::mt19937_64 dice_;
  engine::Options options_;
  engine::State state_;
  absl::Time now_ = absl::UnixEpoch();
  int64_t num_requests_ = 0;
  int64_t sequence_ = 0;
};

TEST(StarvationTest, AGangOfTheWholeClusterIsPlacedUnderAnEndlessStreamOfSmallerRunsOfHigherPriority) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    Stream stream(seed);
    for (int round = 0; round < 5; ++round) stream.Round();
    const RunId large = stream.Submit(6, 0, "patient");
    // Three agings lift it above what comes later with priority 2; what came before then has to be done first.
    int rounds = 0;
    while (stream.Get(large).state == engine::RunState::kQueued && rounds < 300) {
      stream.Round();
      ++rounds;
    }
    EXPECT_NE(stream.Get(large).state, engine::RunState::kQueued) << "seed " << seed << ": waits after 300 rounds";
  }
}

}  // namespace
}  // namespace normlab::scheduler
