#pragma once

#include <absl/time/time.h>

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "coordinator/engine/run_state.h"

// Everything the coordinator knows, as plain structs. Owned by the engine's thread; nobody else reads or writes it.
// What the engine only passes through (specs, layer reports) is a serialized message that it never looks into.
namespace normlab::engine {

/// How a STOPPING run ends once its gang is gone.
enum class StopIntent { kNone = 0, kCancel = 1, kRequeue = 2 };

/// What one rank of the current attempt has said.
enum class RankState {
  kHeld = 0,     // Waits for rank 0's address; nothing was sent to its worker.
  kSent = 1,     // StartAttempt was sent.
  kStarted = 2,  // Reported `started`.
  kEnded = 3,    // Its process is gone, or its worker's lease is.
};

/// What rank 0 said of the attempt's end before its process ended.
enum class Outcome { kNone = 0, kFinished = 1, kStopped = 2, kFailed = 3, kFailedForGood = 4 };

struct EvalResult {
  int64_t step = 0;
  double loss = 0;  // Nats per token.
  double perplexity = 0;
  int64_t tokens = 0;
};

struct Checkpoint {
  int64_t step = 0;
  std::string name;
  int64_t bytes = 0;
};

struct Progress {
  int64_t step = 0;
  double loss = 0;
  double lr = 0;
  double tokens_per_second = 0;
  int64_t tokens = 0;
  std::optional<EvalResult> eval;
  std::optional<Checkpoint> checkpoint;
  std::string last_layers;  // Serialized LayerReport; empty before the first.
  bool diverged = false;
};

/// The part of a run that never changes.
struct RunInfo {
  std::map<std::string, std::string> axes;  // Axis -> value of this run.
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> worker_labels;  // Every worker of the gang must have these.
  std::string owner;
  std::string spec;  // Serialized RunSpec.
  int world_size = 1;
  int retries_max = 0;
  int64_t steps = 0;
  absl::Time created_at;
};

struct Run {
  RunId id;
  std::shared_ptr<const RunInfo> info;
  int priority = 0;
  RunState state = RunState::kQueued;
  int attempt = 0;  // The fence: whatever names another attempt is refused.
  int failures = 0;
  int resume_from_attempt = 1;
  StopIntent stop_intent = StopIntent::kNone;
  Outcome outcome = Outcome::kNone;
  std::string outcome_detail;    // The trainer's or agent's words.
  std::vector<WorkerId> gang;    // By rank; empty unless STARTING, RUNNING or STOPPING.
  std::vector<RankState> ranks;  // As long as gang.
  std::string rendezvous;        // Rank 0's address; empty before it is known.
  std::string reason;            // Why it is where it is.
  absl::Time queued_at;          // Its age in the queue: kept by a run that failed or was drained, new after a requeue.
  std::optional<absl::Time> started_at;
  std::optional<absl::Time> ended_at;
  std::optional<absl::Time> not_before;  // Backoff.
  std::string requeue_request_id;
  Progress progress;
  int64_t revision = 0;
};

struct Experiment {
  ExperimentId id;
  std::string spec;         // Serialized ExperimentSpec.
  std::string spec_digest;  // Tells whether a repeated request_id carries the same spec.
  std::string request_id;
  std::string owner;
  absl::Time created_at;
  int32_t num_runs = 0;
};

struct WorkerInfo {
  std::string host;
  std::string device;
  int64_t memory_bytes = 0;
  int threads = 0;
  std::map<std::string, std::string> labels;
  std::string metrics_address;
  std::string build;
};

/// One rank of one attempt.
struct AttemptRef {
  RunId run;
  int attempt = 0;
  int rank = 0;
  auto operator<=>(const AttemptRef&) const = default;
};

struct Worker {
  WorkerId id;
  std::string incarnation;  // Changes with each start of the agent.
  WorkerInfo info;
  bool is_connected = false;
  bool has_lease = false;
  bool is_cordoned = false;
  bool is_draining = false;  // Said that it is about to end; ends with the incarnation.
  absl::Time lease_expires_at;
  std::optional<AttemptRef> attempt;  // Occupied until the rank's exit is reported or the lease is over.
  // Set when the worker came back without a rank that we believe to be started: its exit report has to come by then.
  std::optional<absl::Time> exit_due;
  int64_t last_sequence = 0;  // Of this incarnation's reports; a report that is not above it was sent twice.
  std::optional<absl::Time> indexed_deadline;  // Its entry in State::worker_deadlines.
};

/// A worker whose lease is over is shown as lost for this long, then forgotten (unless it is cordoned).
inline constexpr absl::Duration kLostWorkerKept = absl::Hours(1);

/// Order in the queue: priority, then age, then id.
struct QueueKey {
  int negative_priority;
  absl::Time queued_at;
  RunId id;
  // absl::Time has no <=>: with the category written out, the compiler makes one of its < and ==.
  std::strong_ordering operator<=>(const QueueKey&) const = default;
};

/// What a run asks of the cluster. Queued runs that ask the same stand in one line: if the first cannot be placed, none
/// behind it can.
struct Demand {
  std::map<std::string, std::string> worker_labels;
  int world_size = 1;
  auto operator<=>(const Demand&) const = default;
};

struct State {
  std::map<ExperimentId, Experiment> experiments;
  std::map<RunId, Run> runs;
  std::map<WorkerId, Worker> workers;
  int64_t last_experiment_number = 0;
  int64_t revision = 0;  // Of the last tick that changed something.

  // Indexes; rebuilt by BuildIndexes after a load, kept by the engine afterwards.
  std::set<QueueKey> queue;  // Every QUEUED run, also those in backoff.
  std::map<Demand, std::set<QueueKey>> queue_by_demand;
  std::set<std::pair<absl::Time, RunId>> backoffs;  // QUEUED runs with a not_before.
  std::set<RunId> live_runs;                        // STARTING, RUNNING, STOPPING.
  std::unordered_map<std::string, ExperimentId> experiment_by_request;
  std::set<WorkerId> idle_workers;  // Where a rank may be placed now.
  std::set<std::pair<absl::Time, WorkerId>> worker_deadlines;
};

/// The run's place in the queue.
QueueKey KeyOf(const Run& run);
Demand DemandOf(const RunInfo& info);

/// Whether a rank may be placed there now: connected, with a lease, not cordoned, not draining, nothing held.
bool IsIdle(const Worker& worker);

/// Fills the indexes of a state that was just loaded, and gives every worker that holds a live rank one lease from
/// `now` to come back in.
void BuildIndexes(State& state, absl::Time now, absl::Duration lease);

}  // namespace normlab::engine
