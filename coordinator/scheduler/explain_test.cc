#include <gtest/gtest.h>

#include <map>
#include <string>

#include "coordinator/engine/testing/script.h"
#include "coordinator/scheduler/scheduler.h"

namespace normlab::scheduler {
namespace {

using engine::Script;

std::string Explain(const Script& script, const char* run) {
  return ExplainWait(script.state(), script.policy(), script.state().runs.at(*RunId::Parse(run)), script.now());
}

void Do(Script& script, std::initializer_list<const char*> commands) {
  for (const char* command : commands) script.Do(command);
}

TEST(ExplainWaitTest, SaysThatNoWorkerIsKnown) {
  Script script;
  Do(script, {"submit 1", "submit 1 need=gpu:h100", "hello w1", "wait 30"});
  EXPECT_EQ(Explain(script, "exp-0001.01"), "no worker is known");
  script.Do("hello w1");
  EXPECT_EQ(Explain(script, "exp-0002.01"), "no known worker has gpu=h100");
}

TEST(ExplainWaitTest, SaysThatTooFewWorkersAreKnown) {
  Script script;
  Do(script, {"submit 1 world=3", "hello w1"});
  EXPECT_EQ(Explain(script, "exp-0001.01"), "needs 3 workers: only 1 is known (1 is free)");
}

TEST(ExplainWaitTest, CountsWorkersByWhatTheyDoAndRunsAhead) {
  Script script;
  Do(script, {"submit 2 need=gpu:h100", "hello w1 gpu:h100", "hello w2 gpu:h100", "hello other", "place exp-0001.02 w2",
              "submit 2", "submit 1 world=2 need=gpu:h100"});
  EXPECT_EQ(Explain(script, "exp-0003.01"),
            "needs 2 workers with gpu=h100; 1 is free, 1 busy (exp-0001.02); number 4 in the queue");
  Do(script, {"hello w3 gpu:h100", "cordon w3", "hello w4 gpu:h100", "disconnect w4", "drain w1"});
  EXPECT_EQ(Explain(script, "exp-0001.01"),
            "needs 1 worker with gpu=h100; 0 are free, 1 busy (exp-0001.02), 1 draining, 1 cordoned, 1 unreachable; "
            "first in the queue");
}

TEST(ExplainWaitTest, SaysUntilWhenABackoffLastsAndWhy) {
  Script script;
  Do(script, {"submit 1", "hello w1", "place exp-0001.01 w1", "report w1 exp-0001.01#1/0 signal 9"});
  EXPECT_EQ(Explain(script, "exp-0001.01"),
            "waits until 12:00:01 UTC (backoff after failure 1 of 3: rank 0 on w1 was ended by signal 9 after step 0)");
}

TEST(ExplainWaitTest, OfARunThatDoesNotWaitIsItsReason) {
  Script script;
  Do(script, {"submit 1", "hello w1", "place exp-0001.01 w1"});
  EXPECT_EQ(Explain(script, "exp-0001.01"), "attempt 1 on w1");
}

std::map<std::string, int64_t> CountsOf(const Script& script) {
  std::map<std::string, int64_t> counts;
  const auto all = CountWaits(script.state(), script.policy(), script.now());
  for (int i = 0; i < kNumWaitReasons; ++i) {
    if (all[i] != 0) counts[Name(static_cast<WaitReason>(i))] = all[i];
  }
  return counts;
}

TEST(CountWaitsTest, EveryQueuedRunHasOneOfFewReasons) {
  using Counts = std::map<std::string, int64_t>;
  Script script;
  Do(script, {"submit 3 world=2"});
  EXPECT_EQ(CountsOf(script), (Counts{{"no_worker", 3}}));
  Do(script, {"hello w1 gpu:yes"});
  EXPECT_EQ(CountsOf(script), (Counts{{"too_few_workers", 3}}));
  Do(script, {"submit 2 need=gpu:no", "submit 2", "hold exp-0003.02"});
  EXPECT_EQ(CountsOf(script), (Counts{{"too_few_workers", 3}, {"no_worker", 2}, {"workers_busy", 1}, {"held", 1}}));
  Do(script, {"place exp-0003.01 w1", "report w1 exp-0003.01#1/0 exit 1 broke"});
  EXPECT_EQ(CountsOf(script), (Counts{{"too_few_workers", 3}, {"no_worker", 2}, {"backoff", 1}, {"held", 1}}));
  Do(script, {"wait 2", "policy workers=1", "hello w2"});
  EXPECT_EQ(CountsOf(script), (Counts{{"quota", 3}, {"no_worker", 2}, {"workers_busy", 1}, {"held", 1}}));
}

}  // namespace
}  // namespace normlab::scheduler
