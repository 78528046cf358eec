#pragma once

#include <string>

#include "coordinator/engine/effect.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/state.h"

namespace normlab::engine {

/// One command being applied, at one moment: the state, what follows from it, and the only way to move a run.
class Transaction {
 public:
  Transaction(const Options& options, State& state, absl::Time now, Changes& changes)
      : options(options), state(state), now(now), changes(changes) {}

  /// Moves `run` as the table of run_state.h says and writes the event. Nothing else in the program assigns a run's
  /// state. A run that stops being live forgets its gang; `cause` is kept if it is one. A move that the table refuses
  /// is a bug of the caller: the program ends, because going on would make a wrong state durable.
  void Move(Run& run, RunEvent event, const std::string& actor, const std::string& reason, Cause cause = Cause::kNone);

  /// Writes an event that moves nothing.
  void Note(const Run& run, const std::string& actor, const std::string& reason, Cause cause = Cause::kNone);

  /// The owner's workers are about to change in number: counts his usage up to now.
  void CountUsage(const std::string& owner);

  /// `run` has changed and must be stored.
  void Touch(Run& run);

  /// Something other than a run has changed: the state's revision grows, once per command.
  int64_t TakeRevision();

  /// Queues a message for the worker's present incarnation. Whether it has a stream is for the sender to know: what a
  /// worker misses is repeated when it says hello.
  void Send(const WorkerId& worker, WorkerCommand command);

  const Options& options;
  State& state;
  const absl::Time now;
  Changes& changes;

 private:
  bool has_revision_ = false;
};

inline constexpr char kCoordinatorActor[] = "coordinator";
std::string UserActor(const std::string& name);
std::string WorkerActor(const WorkerId& worker);

}  // namespace normlab::engine
