#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/engine/command.h"

// What follows from applying commands: what must become durable, and what may be said once it is.
namespace normlab::engine {

// --- Replies, one per command that has a caller. ---

struct ExperimentCreated {
  ExperimentId id;
  bool already_existed = false;
};

struct RunChange {
  RunId run;
  RunState before;
  RunState after;
  std::string note;
};

struct RunsChanged {
  std::vector<RunChange> changes;  // In order of run id.
};

struct AnalysisRecorded {
  bool replaced = false;
};

struct WorkerCordoned {
  bool changed = false;
};

struct Done {};  // Commands of sessions and time have nothing to say to their caller.

using Reply = std::variant<Done, ExperimentCreated, RunsChanged, AnalysisRecorded, WorkerCordoned>;

// --- Messages to workers. ---

struct SendWelcome {
  absl::Duration lease;
  absl::Duration heartbeat_interval;
  std::vector<AttemptRef> fenced;
};
struct SendLeaseRenewed {};
struct SendStart {
  AttemptRef attempt;
  int world_size = 1;
  std::string spec;  // Serialized RunSpec.
  int resume_from_attempt = 1;
  std::string rendezvous;
  std::string resume_checkpoint;
};
struct SendStop {
  AttemptRef attempt;
  absl::Duration grace;
  std::string reason;
};
struct SendAck {
  int64_t sequence = 0;
};

using WorkerCommand = std::variant<SendWelcome, SendLeaseRenewed, SendStart, SendStop, SendAck>;

struct Outgoing {
  WorkerId worker;
  std::string incarnation;  // Dropped if the worker has been restarted since.
  WorkerCommand command;
};

// --- Records that only grow. ---

struct EventRecord {
  RunId run;
  absl::Time time;
  std::string actor;  // "user:NAME", "worker:NAME" or "coordinator".
  RunState state;
  int attempt = 0;
  std::string reason;
  Cause cause = Cause::kNone;
  std::optional<AttemptEnvironment> environment = std::nullopt;  // Of an attempt that has started.
};

enum class HistoryKind { kStep = 1, kLayers = 2, kEval = 3, kAnalysis = 4 };

/// One report of one step. A step that is done again by a later attempt replaces what stood there.
struct HistoryRecord {
  RunId run;
  int64_t step = 0;
  HistoryKind kind = HistoryKind::kStep;
  int attempt = 0;
  absl::Time time;
  std::string payload;
  std::string actor = "";  // kAnalysis: who recorded it.
};

struct LogRecord {
  RunId run;
  absl::Time time;
  int attempt = 0;
  int rank = 0;
  std::string payload;  // Serialized LogLine.
  // Its report's: the worker repeats what it was not told to be durable, after a restart too.
  std::string incarnation;
  int64_t sequence = 0;
};

/// All that one tick did. `runs`, `experiments` and `workers` name what changed in the state; the store reads the
/// values there.
struct Changes {
  std::set<ExperimentId> experiments;
  std::set<RunId> runs;
  std::set<WorkerId> workers;    // Only what of a worker is stored (its cordon).
  std::set<std::string> owners;  // Whose usage was counted anew.
  std::vector<EventRecord> events;
  std::vector<HistoryRecord> history;
  std::vector<LogRecord> logs;
  // Runs whose history after `step` is void: a new attempt resumed at an earlier step.
  struct Truncation {
    RunId run;
    int64_t after_step = 0;
  };
  std::vector<Truncation> truncations;
  std::vector<Outgoing> messages;  // In order; sent after the commit.

  bool HasDurablePart() const {
    return !experiments.empty() || !runs.empty() || !workers.empty() || !owners.empty() || !events.empty() ||
           !history.empty() || !logs.empty() || !truncations.empty();
  }
};

}  // namespace normlab::engine
