#pragma once

#include <array>
#include <optional>
#include <string_view>

// Where a run can be and how it may move. Nothing else in the program changes a run's state.
namespace normlab::engine {

enum class RunState {
  kQueued = 1,
  kStarting,
  kRunning,
  kStopping,
  kSucceeded,
  kFailed,
  kCancelled
};  // As in types.proto.

enum class RunEvent {
  kPlaced,            // The scheduler gave it a gang.
  kAllRanksStarted,   // Every rank reported `started`.
  kFinished,          // Rank 0 finished and every rank ended.
  kStopAsked,         // Cancel, preemption or drain of a live run.
  kStoppedToCancel,   // The gang is gone; somebody had asked to cancel.
  kStoppedToRequeue,  // The gang is gone after a checkpoint; the run waits again.
  kAttemptLost,       // A rank died or a worker was lost, and retries last.
  kGaveUp,            // As above, and retries are spent, or the failure is for good.
  kCancelAsked,       // Cancel of a run that waits.
  kRequeueAsked,      // A user wants a terminal run again.
};

struct Transition {
  RunState from;
  RunEvent event;
  RunState to;
};

// The only place that says how a run may move. A pair that is not listed is refused.
inline constexpr Transition kTransitions[] = {
    {RunState::kQueued, RunEvent::kPlaced, RunState::kStarting},
    {RunState::kQueued, RunEvent::kCancelAsked, RunState::kCancelled},
    {RunState::kStarting, RunEvent::kAllRanksStarted, RunState::kRunning},
    {RunState::kStarting, RunEvent::kStopAsked, RunState::kStopping},
    {RunState::kStarting, RunEvent::kFinished, RunState::kSucceeded},
    {RunState::kStarting, RunEvent::kAttemptLost, RunState::kQueued},
    {RunState::kStarting, RunEvent::kGaveUp, RunState::kFailed},
    {RunState::kRunning, RunEvent::kStopAsked, RunState::kStopping},
    {RunState::kRunning, RunEvent::kFinished, RunState::kSucceeded},
    {RunState::kRunning, RunEvent::kAttemptLost, RunState::kQueued},
    {RunState::kRunning, RunEvent::kGaveUp, RunState::kFailed},
    {RunState::kStopping, RunEvent::kFinished, RunState::kSucceeded},
    {RunState::kStopping, RunEvent::kStoppedToCancel, RunState::kCancelled},
    {RunState::kStopping, RunEvent::kStoppedToRequeue, RunState::kQueued},
    {RunState::kSucceeded, RunEvent::kRequeueAsked, RunState::kQueued},
    {RunState::kFailed, RunEvent::kRequeueAsked, RunState::kQueued},
    {RunState::kCancelled, RunEvent::kRequeueAsked, RunState::kQueued},
};

/// The state after `event`, or nullopt if a run in `from` refuses it.
constexpr std::optional<RunState> Next(RunState from, RunEvent event) {
  for (const Transition& transition : kTransitions) {
    if (transition.from == from && transition.event == event) return transition.to;
  }
  return std::nullopt;
}

constexpr bool IsTerminal(RunState state) {
  return state == RunState::kSucceeded || state == RunState::kFailed || state == RunState::kCancelled;
}

/// STARTING, RUNNING or STOPPING: the run holds workers.
constexpr bool IsLive(RunState state) {
  return state == RunState::kStarting || state == RunState::kRunning || state == RunState::kStopping;
}

/// "QUEUED", "RUNNING", ... as in types.proto.
constexpr std::string_view Name(RunState state) {
  constexpr std::array<std::string_view, 8> kNames = {"UNSPECIFIED", "QUEUED",    "STARTING", "RUNNING",
                                                      "STOPPING",    "SUCCEEDED", "FAILED",   "CANCELLED"};
  return kNames[static_cast<size_t>(state)];
}

}  // namespace normlab::engine
