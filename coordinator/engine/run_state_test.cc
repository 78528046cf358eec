#include "coordinator/engine/run_state.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <utility>

namespace normlab::engine {
namespace {

constexpr RunState kStates[] = {RunState::kQueued,    RunState::kStarting, RunState::kRunning,  RunState::kStopping,
                                RunState::kSucceeded, RunState::kFailed,   RunState::kCancelled};
constexpr RunEvent kEvents[] = {RunEvent::kPlaced,      RunEvent::kAllRanksStarted, RunEvent::kFinished,
                                RunEvent::kStopAsked,   RunEvent::kStoppedToCancel, RunEvent::kStoppedToRequeue,
                                RunEvent::kAttemptLost, RunEvent::kGaveUp,          RunEvent::kCancelAsked,
                                RunEvent::kRequeueAsked};

// Written a second time, by state, so that a slip in the table is seen.
const std::map<RunState, std::map<RunEvent, RunState>> kAllowed = {
    {RunState::kQueued, {{RunEvent::kPlaced, RunState::kStarting}, {RunEvent::kCancelAsked, RunState::kCancelled}}},
    {RunState::kStarting,
     {{RunEvent::kAllRanksStarted, RunState::kRunning},
      {RunEvent::kStopAsked, RunState::kStopping},
      {RunEvent::kFinished, RunState::kSucceeded},
      {RunEvent::kAttemptLost, RunState::kQueued},
      {RunEvent::kGaveUp, RunState::kFailed}}},
    {RunState::kRunning,
     {{RunEvent::kStopAsked, RunState::kStopping},
      {RunEvent::kFinished, RunState::kSucceeded},
      {RunEvent::kAttemptLost, RunState::kQueued},
      {RunEvent::kGaveUp, RunState::kFailed}}},
    {RunState::kStopping,
     {{RunEvent::kFinished, RunState::kSucceeded},
      {RunEvent::kStoppedToCancel, RunState::kCancelled},
      {RunEvent::kStoppedToRequeue, RunState::kQueued}}},
    {RunState::kSucceeded, {{RunEvent::kRequeueAsked, RunState::kQueued}}},
    {RunState::kFailed, {{RunEvent::kRequeueAsked, RunState::kQueued}}},
    {RunState::kCancelled, {{RunEvent::kRequeueAsked, RunState::kQueued}}},
};

TEST(RunStateTest, MovesOnlyAsListedAndRefusesEveryOtherPair) {
  for (const RunState state : kStates) {
    for (const RunEvent event : kEvents) {
      const auto& allowed = kAllowed.at(state);
      const auto found = allowed.find(event);
      const std::optional<RunState> expected =
          found == allowed.end() ? std::nullopt : std::optional<RunState>(found->second);
      EXPECT_EQ(Next(state, event), expected) << Name(state) << " with event " << static_cast<int>(event);
    }
  }
}

TEST(RunStateTest, TableHasNoPairTwice) {
  std::set<std::pair<RunState, RunEvent>> seen;
  for (const Transition& transition : kTransitions) {
    EXPECT_TRUE(seen.emplace(transition.from, transition.event).second) << Name(transition.from);
  }
}

TEST(RunStateTest, EveryStateIsQueuedOrLiveOrTerminal) {
  for (const RunState state : kStates) {
    EXPECT_EQ((state == RunState::kQueued) + IsLive(state) + IsTerminal(state), 1) << Name(state);
  }
}

}  // namespace
}  // namespace normlab::engine
