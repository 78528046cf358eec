#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/engine/effect.h"
#include "coordinator/engine/state.h"
#include "coordinator/store/statistics.h"
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

  /// What retention can remove of a run.
  enum class Part { kLogs, kHistory, kEvents };
  static constexpr Part kParts[] = {Part::kLogs, Part::kHistory, Part::kEvents};

  /// Which of it: what ended long ago, and of the rest the oldest while there is too much. Neither: nothing.
  struct Limits {
    std::optional<absl::Time> ended_before;
    uint64_t bytes_max = 0;  // In all runs together; 0: any number.
  };
  struct EndedRun {
    absl::Time ended_at;
    RunId run;
    // absl::Time has no <=>: with the category written out, the compiler makes one of its < and ==.
    std::strong_ordering operator<=>(const EndedRun&) const = default;
  };
  /// Ended runs whose `part` is past the limits and still there, the oldest first. Reads all runs: slow, any thread.
  virtual absl::StatusOr<std::vector<EndedRun>> FindExpired(Part part, const Limits& limits) = 0;

  /// Removes `part` of these runs and notes when. Durable with the next commit. The writer's thread only, which has to
  /// know that the runs have still ended.
  virtual absl::Status Expire(Part part, const std::vector<RunId>& runs, absl::Time now) = 0;

  /// Gives back the room of what was removed of these runs. Slow, any thread.
  virtual absl::Status Compact(Part part, const std::vector<RunId>& runs) = 0;

  /// Writes all that was committed before the call into the new folder `folder`, as a database. Commits are not held
  /// up. Any thread. FAILED_PRECONDITION for a store in memory.
  virtual absl::Status WriteCheckpoint(const std::string& folder) = 0;

  /// What is there of the run's history, and what is missing.
  virtual absl::StatusOr<v1::HistorySummary> Summarize(RunId run) = 0;

  /// How the database is, for metrics; nullopt for a store that has none. May take some milliseconds: not for the
  /// engine's thread.
  virtual std::optional<Statistics> Measure() { return std::nullopt; }

  /// The position from which `count` lines are left, or 0 if there are fewer.
  virtual absl::StatusOr<uint64_t> LogTailPosition(RunId run, int count) = 0;
};

}  // namespace normlab::store
