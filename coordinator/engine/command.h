#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/engine/state.h"

// What can be asked of the engine. Each is a fact or a wish from outside; the engine decides what it means.
namespace normlab::engine {

/// One point of the expanded matrix.
struct NewRun {
  std::string spec;  // Serialized RunSpec, complete.
  std::map<std::string, std::string> axes;
  std::map<std::string, std::string> worker_labels;
  int world_size = 1;
  std::vector<int> smaller_worlds;
  RequeuePolicy on_preemption = RequeuePolicy::kFront;
  RequeuePolicy on_loss = RequeuePolicy::kFront;
  int retries_max = 0;
  int64_t steps = 0;
};

struct CreateExperiment {
  std::string request_id;
  std::string owner;
  std::string spec;  // Serialized ExperimentSpec.
  std::string spec_digest;
  int priority = 0;
  std::map<std::string, std::string> labels;
  std::vector<NewRun> runs;
};

/// Which runs; the fields that are set are ANDed. An empty selector chooses every run in lists and nothing in changes.
struct Selector {
  std::vector<RunId> runs;
  std::optional<ExperimentId> experiment;
  std::map<std::string, std::string> labels;
  std::vector<RunState> states;
  std::string owner;                         // Empty: any.
  std::optional<absl::Time> created_after;   // That time included.
  std::optional<absl::Time> created_before;  // That time excluded.

  bool IsEmpty() const {
    return runs.empty() && !experiment && labels.empty() && states.empty() && owner.empty() && !created_after &&
           !created_before;
  }
};

struct CancelRuns {
  Selector selector;
  std::string actor;
  std::string reason;
};

struct RequeueRuns {
  Selector selector;
  bool from_scratch = false;
  std::string checkpoint;  // To go on from; empty: the newest. Not with from_scratch.
  std::optional<int> priority;
  std::string actor;
  std::string reason;
  std::string request_id;
};

/// Holds, releases or changes the priority of queued runs.
struct UpdateRuns {
  Selector selector;
  std::optional<bool> held;
  std::optional<int> priority;
  std::string actor;
  std::string reason;
};

/// What was measured of one checkpoint of a run.
struct RecordAnalysis {
  Selector selector;  // One run.
  int64_t step = 0;
  int attempt = 0;  // That wrote the checkpoint.
  std::string actor;
  std::string payload;  // Serialized Analysis.
};

struct CordonWorker {
  WorkerId worker;
  bool cordoned = false;
  std::string actor;
};

/// A worker's session began.
struct WorkerHello {
  WorkerId worker;
  std::string incarnation;
  WorkerInfo info;
  std::vector<AttemptRef> running;
};

struct WorkerHeartbeat {
  WorkerId worker;
  std::string incarnation;
};

/// The worker was asked to end: nothing new is placed there.
struct WorkerDraining {
  WorkerId worker;
  std::string incarnation;
};

/// The stream closed. The lease goes on.
struct WorkerDisconnected {
  WorkerId worker;
  std::string incarnation;
};

// What a rank reports. `payload` is the serialized message that history keeps.
struct RendezvousOpen {
  std::string address;
};
struct RankStarted {
  int64_t first_step = 1;
  std::string resumed_from;
  std::string payload;
};
struct StepReported {
  int64_t step = 0;
  double loss = 0;
  double lr = 0;
  double tokens_per_second = 0;
  int64_t tokens = 0;
  std::string payload;
};
struct LayersReported {
  int64_t step = 0;
  std::string payload;
};
struct EvalReported {
  EvalResult eval;
  std::string payload;
};
struct CheckpointReported {
  Checkpoint checkpoint;
};
struct LogReported {
  std::string payload;  // Serialized LogLine.
};
struct TrainerFinished {
  int64_t step = 0;
  bool diverged = false;
};
struct TrainerStopped {
  int64_t step = 0;
};
struct TrainerFailed {
  std::string message;
  int64_t step = 0;
  bool retryable = true;
};
struct TrainerExited {
  std::optional<int> code;
  std::optional<int> signal;
  std::string detail;
  bool was_stuck = false;  // The agent ended it because it made no progress.
};

using Report = std::variant<RendezvousOpen, RankStarted, StepReported, LayersReported, EvalReported, CheckpointReported,
                            LogReported, TrainerFinished, TrainerStopped, TrainerFailed, TrainerExited>;

struct WorkerReport {
  WorkerId worker;
  std::string incarnation;
  int64_t sequence = 0;  // Acknowledged once the tick is durable, also when refused: a stale report must not come back.
  AttemptRef attempt;
  absl::Time time;  // The worker's clock; for logs and history.
  Report report;
};

/// One gang that the scheduler chose; the engine checks it again against the state of now.
struct PlaceRun {
  RunId run;
  std::vector<WorkerId> gang;  // By rank.
};

/// The scheduler wants the workers of a run for one of higher priority.
struct PreemptRun {
  RunId run;
  RunId beneficiary;
};

/// Time went by: expires leases, ends backoffs.
struct Tick {};

using Command =
    std::variant<CreateExperiment, CancelRuns, RequeueRuns, UpdateRuns, RecordAnalysis, CordonWorker, WorkerHello,
                 WorkerHeartbeat, WorkerDraining, WorkerDisconnected, WorkerReport, PlaceRun, PreemptRun, Tick>;

}  // namespace normlab::engine
