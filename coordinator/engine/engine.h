#pragma once

#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include <optional>

#include "coordinator/engine/command.h"
#include "coordinator/engine/effect.h"
#include "coordinator/engine/state.h"

namespace normlab::engine {

struct Options {
  absl::Duration lease = absl::Seconds(30);
  absl::Duration heartbeat_interval = absl::Seconds(5);
  absl::Duration stop_grace = absl::Seconds(30);    // SIGTERM to SIGKILL.
  absl::Duration backoff_first = absl::Seconds(1);  // Doubles with each failure.
  absl::Duration backoff_max = absl::Minutes(5);
  Policy policy;
  std::string build;  // Of the coordinator, for the environment of attempts.
};

/// Applies one command: changes `state`, adds what follows to `changes`, returns the caller's reply or why it is
/// refused (then nothing has changed). Pure: no I/O, no clock, no threads; the same state, command and time always do
/// the same. Nothing in `changes` may be acted upon, and no reply sent, before its durable part is.
absl::StatusOr<Reply> Apply(const Options& options, State& state, const Command& command, absl::Time now,
                            Changes& changes);

/// How long a run waits after its `failures`-th failure, from 1: backoff_first, then doubled each time, at most
/// backoff_max.
absl::Duration Backoff(const Options& options, int failures);

/// Whether `run` is chosen. An empty selector chooses everything.
bool Matches(const Selector& selector, const Run& run);

/// When the next Tick has something to do (a lease or a backoff ends), or nullopt.
std::optional<absl::Time> NextDeadline(const State& state);

}  // namespace normlab::engine
