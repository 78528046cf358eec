#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "coordinator/engine/command.h"
#include "coordinator/engine/effect.h"
#include "coordinator/engine/state.h"
#include "coordinator/service/run_tally.h"

// How services reach the engine, whose state belongs to one thread.
namespace normlab::service {

/// A run that waits, and why.
struct WaitingRun {
  RunId run;
  int64_t position = 0;  // 1 for the first; 0 for one that is held or in backoff.
  std::string reason;
};

/// The state as of the last durable tick. Valid only during the call that it is given to.
struct View {
  const engine::State& state;
  absl::Time now;
  const RunTally& tally;
  /// Why a queued run waits, in words.
  const std::function<std::string(const engine::Run&)>& explain_wait;
  /// At most `limit` waiting runs behind the first `offset`, in the order in which they would be placed.
  const std::function<std::vector<WaitingRun>(size_t offset, size_t limit)>& list_waiting;
};

class EnginePort {
 public:
  virtual ~EnginePort() = default;

  /// Called once, on the engine's thread and after everything is durable, or with an error (then `view` is null): what
  /// the engine refused, UNAVAILABLE if the change could not be stored or the coordinator is ending (then maybe at once
  /// on the caller's thread), RESOURCE_EXHAUSTED if too many commands wait.
  using ReplyCallback = std::function<void(const absl::StatusOr<engine::Reply>& reply, const View* view)>;
  using ReadCallback = std::function<void(const absl::Status& status, const View* view)>;

  /// Queues a command. May be called from any thread; commands are applied in the order of the calls.
  virtual void Submit(engine::Command command, ReplyCallback done) = 0;

  /// Queues a look at the state, which sees all commands submitted before it.
  virtual void Read(ReadCallback read) = 0;
};

/// Is told of each tick that did something, on the engine's thread, after the callbacks of its commands.
class TickListener {
 public:
  virtual ~TickListener() = default;
  /// Before the first tick: the revision of the state that was loaded.
  virtual void OnStart(int64_t /*revision*/) {}
  virtual void OnTick(const View& view, const engine::Changes& changes) = 0;
};

}  // namespace normlab::service
