#include "coordinator/scheduler/scheduler.h"

#include <absl/strings/str_join.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/engine/testing/script.h"

namespace normlab::scheduler {
namespace {

using engine::Script;
using testing::ElementsAre;
using testing::IsEmpty;

/// "exp-0001.01 on w1 w2", one per placement.
std::vector<std::string> Place(const Script& script) {
  std::vector<std::string> placements;
  for (const Placement& placement : Schedule(script.state(), script.policy(), script.now()).placements) {
    placements.push_back(
        placement.run.ToString() + " on " +
        absl::StrJoin(placement.gang, " ", [](std::string* out, const WorkerId& id) { *out += id.name; }));
  }
  return placements;
}

void Do(Script& script, std::initializer_list<const char*> commands) {
  for (const char* command : commands) script.Do(command);
}

TEST(ScheduleTest, PlacesByPriorityThenAgeThenId) {
  Script script;
  Do(script, {"submit 2", "wait 1", "submit 1 priority=5", "submit 1", "hello w1", "hello w2", "hello w3"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0002.01 on w1", "exp-0001.01 on w2", "exp-0001.02 on w3"));
}

TEST(ScheduleTest, ARetriedRunKeepsItsAge) {
  Script script;
  Do(script, {"submit 1", "hello w1", "place exp-0001.01 w1", "wait 1", "submit 1", "report w1 exp-0001.01#1/0 exit 1",
              "wait 1"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on w1"));
}

TEST(ScheduleTest, TakesOnlyIdleConnectedWorkers) {
  Script script;
  Do(script, {"submit 1", "hello busy", "place exp-0001.01 busy", "submit 9", "hello cordoned", "cordon cordoned",
              "hello draining", "drain draining", "hello away", "disconnect away", "hello idle"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0002.01 on idle"));
}

TEST(ScheduleTest, EveryWorkerOfTheGangHasTheLabels) {
  Script script;
  Do(script, {"submit 1 world=2 need=gpu:h100", "hello w1 gpu:h100", "hello w2 gpu:a100", "hello w3"});
  EXPECT_THAT(Place(script), IsEmpty());
  script.Do("hello w4 gpu:h100 zone:b");
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on w1 w4"));
}

TEST(ScheduleTest, ARunInBackoffIsPassedOver) {
  Script script;
  Do(script, {"submit 2", "hello w1", "place exp-0001.01 w1", "report w1 exp-0001.01#1/0 exit 1"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.02 on w1"));
  Do(script, {"hello w2", "wait 1"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on w1", "exp-0001.02 on w2"));
}

TEST(ScheduleTest, AGangThatWaitsForBusyWorkersReservesTheIdleOnes) {
  Script script;
  Do(script, {"submit 1", "hello w1", "hello w2", "place exp-0001.01 w1", "submit 1 world=2", "submit 1"});
  EXPECT_THAT(Place(script), IsEmpty());
}

TEST(ScheduleTest, AReservationHoldsOnlyWorkersThatMatch) {
  Script script;
  Do(script, {"submit 1", "hello w1 gpu:h100", "hello w2 gpu:h100", "hello w3", "place exp-0001.01 w1",
              "submit 1 world=2 need=gpu:h100", "submit 2"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0003.01 on w3"));
}

TEST(ScheduleTest, ARunThatNoKnownWorkersCouldServeReservesNothing) {
  Script script;
  Do(script, {"submit 1 world=3 priority=9", "submit 1 need=gpu:h100 priority=9", "submit 1", "hello w1", "hello w2"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0003.01 on w1"));
}

TEST(ScheduleTest, CordonedAndDrainingWorkersMakeNoGangExist) {
  Script script;
  Do(script, {"submit 1 world=3 priority=9", "submit 1", "hello w1", "hello w2", "cordon w2", "hello w3", "drain w3"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0002.01 on w1"));
}

TEST(ScheduleTest, AGangSharesTheSmallestHostThatHasRoom) {
  Script script;
  Do(script, {"submit 1 world=2", "hello a1 host=a", "hello b1 host=b", "hello b2 host=b", "hello b3 host=b",
              "hello c1 host=c", "hello c2 host=c"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on c1 c2"));
}

TEST(ScheduleTest, AGangThatNoHostHoldsTakesAsFewHostsAsPossible) {
  Script script;
  Do(script, {"submit 1 world=4", "hello a1 host=a", "hello b1 host=b", "hello b2 host=b", "hello b3 host=b",
              "hello c1 host=c", "hello c2 host=c"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on b1 b2 b3 a1"));
}

TEST(ScheduleTest, PacksOverWorkersWithDifferentLabelsOfOneHost) {
  Script script;
  Do(script, {"submit 1 world=2 priority=1", "submit 1 need=gpu:h100", "hello a1 host=a", "hello b1 host=b gpu:h100",
              "hello b2 host=b"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on b2 b1"));
}

TEST(ScheduleTest, LeavesWorkersThatOthersAskForToThem) {
  Script script;
  Do(script, {"submit 1", "submit 1 need=gpu:h100", "hello a gpu:h100", "hello b"});
  EXPECT_THAT(Place(script), ElementsAre("exp-0001.01 on b", "exp-0002.01 on a"));
}

TEST(ScheduleTest, IsTheSameForTheSameState) {
  Script script;
  Do(script, {"submit 3 world=2", "hello w3 host=a", "hello w1 host=a", "hello w2 host=b", "hello w4 host=b"});
  EXPECT_EQ(Place(script), Place(script));
}

}  // namespace
}  // namespace normlab::scheduler
