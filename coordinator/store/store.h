#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "coordinator/engine/effect.h"
#include "coordinator/engine/state.h"
#include "normlab/v1/run.pb.h"
#include "normlab/v1/types.pb.h"

namespace normlab::store {

/// Where the coordinator's state outlives its process. One writer (the engine's thread); reads from any thread.
class Store {
 public:
  virtual ~Store() = default;

  /// Everything that was committed, without indexes (see engine::BuildIndexes). Leases and connections are not stored.
  virtual absl::StatusOr<engine::State> Load() = 0;

  /// Makes the durable part of `changes` durable, all of it or nothing, and synced to disk before it returns. After an
  /// error nothing may be assumed about later commits: the caller has to end.
  virtual absl::Status Commit(const engine::State& state, const engine::Changes& changes) = 0;

  /// The run's events, oldest first.
  virtual absl::StatusOr<std::vector<v1::Event>> Events(RunId run) = 0;

  /// Reports after `after_step`, at most `limit` steps, in order.
  virtual absl::StatusOr<std::vector<v1::StepHistory>> History(RunId run, int64_t after_step, int limit) = 0;

  struct LogPage {
    std::vector<v1::LogEntry> entries;
    uint64_t next_position = 0;  // Pass it to read on.
  };
  /// Log lines from `position` on (0: the oldest kept), at most `limit`.
  virtual absl::StatusOr<LogPage> Logs(RunId run, uint64_t position, int limit) = 0;

  /// What is there of the run's history, and what is missing.
  virtual absl::StatusOr<v1::HistorySummary> Summarize(RunId run) = 0;

  /// The position from which `count` lines are left, or 0 if there are fewer.
  virtual absl::StatusOr<uint64_t> LogTailPosition(RunId run, int count) = 0;
};

}  // namespace normlab::store
