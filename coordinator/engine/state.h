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

/// What brought a run where it is, as in types.proto. Recorded by whoever knew it.
enum class Cause {
  kNone = 0,
  kUser,
  kPreempted,
  kDrained,
  kWorkerLost,
  kWorkerRestarted,
  kTrainerFailed,
  kTrainerDied,
  kTrainerStuck,
  kNotStarted,
  kFinished
};

/// Where a run goes that lost its workers through no wish of its user.
enum class RequeuePolicy {
  kFront = 0,  // Keeps its age, and so its place.
  kBack = 1,   // Is as old as one that was submitted now.
  kNever = 2,  // Is not preempted; after a loss, is not tried again.
};

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

/// With what an attempt was made.
struct AttemptEnvironment {
  std::string started;  // Serialized Started of rank 0.
  std::string worker_build;
  std::string worker_host;
  std::string coordinator_build;
  int world_size = 0;
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
  std::set<int64_t> analysis_steps;  // Whose checkpoints have been analyzed.
};

/// The part of a run that never changes.
struct RunInfo {
  std::map<std::string, std::string> axes;  // Axis -> value of this run.
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> worker_labels;  // Every worker of the gang must have these.
  std::string owner;
  std::string spec;  // Serialized RunSpec.
  int world_size = 1;
  std::vector<int> smaller_worlds;  // World sizes that will do if the full one cannot be had; largest first.
  RequeuePolicy on_preemption = RequeuePolicy::kFront;
  RequeuePolicy on_loss = RequeuePolicy::kFront;
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
  std::string resume_checkpoint;  // That the next attempt has to go on from; empty: the newest whole one.
  bool is_held = false;           // QUEUED, and not to be placed.
  Cause cause = Cause::kNone;
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
  std::optional<AttemptEnvironment> environment;  // Of the last attempt that started.
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
  std::string device_lacks;  // Why it can use no GPU.
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

/// What one user has of the cluster. Usage is kept as it was at `as_of`: see UsageAt.
struct Owner {
  double worker_seconds = 0;  // Decayed to as_of.
  absl::Time as_of = absl::UnixEpoch();
  int num_workers = 0;  // Index: workers of his live runs.
  int num_queued = 0;   // Index: his QUEUED runs.

  bool operator==(const Owner&) const = default;
};

/// How the cluster is shared. Zero switches a limit off.
struct Policy {
  absl::Duration usage_half_life = absl::Hours(24);  // After it, what a user has had counts half.
  absl::Duration aging = absl::Hours(24);            // A run that waits gains one point of priority each.
  absl::Duration run_time_min = absl::Minutes(10);   // An attempt is not preempted before.
  int workers_per_user_max = 0;
  int queued_per_user_max = 0;
};

/// A QUEUED run's place among all that were ever queued: priority, then age, then id. What is placed next depends on
/// the time and on who has had how much as well: see scheduler/order.h.
struct QueueKey {
  int negative_priority;
  absl::Time queued_at;
  RunId id;
  // absl::Time has no <=>: with the category written out, the compiler makes one of its < and ==.
  std::strong_ordering operator<=>(const QueueKey&) const = default;
};

/// What a run asks of the cluster.
struct Demand {
  std::map<std::string, std::string> worker_labels;
  int world_size = 1;
  std::vector<int> smaller_worlds;
  auto operator<=>(const Demand&) const = default;
};

/// Queued runs of one user that ask the same with one priority stand in one line, the oldest first: if the first cannot
/// be placed, none behind it can.
struct LineKey {
  int negative_priority = 0;
  std::string owner;
  Demand demand;
  auto operator<=>(const LineKey&) const = default;
};

/// Age, then id.
struct LinePlace {
  absl::Time queued_at;
  RunId id;
  std::strong_ordering operator<=>(const LinePlace&) const = default;
};

struct State {
  std::map<ExperimentId, Experiment> experiments;
  std::map<RunId, Run> runs;
  std::map<WorkerId, Worker> workers;
  std::map<std::string, Owner> owners;
  int64_t last_experiment_number = 0;
  int64_t revision = 0;   // Of the last tick that changed something.
  int attempt_floor = 1;  // Least number of a next attempt: see NextAttempt.

  // Indexes; rebuilt by BuildIndexes after a load, kept by the engine afterwards.
  std::set<QueueKey> queue;                          // Every QUEUED run, also those held or in backoff.
  std::map<LineKey, std::set<LinePlace>> lines;      // QUEUED runs that are not held.
  std::set<std::pair<absl::Time, RunId>> backoffs;   // QUEUED runs with a not_before.
  std::set<RunId> live_runs;                         // STARTING, RUNNING, STOPPING.
  std::set<std::pair<int, RunId>> live_by_priority;  // The same, the lowest priority first.
  std::unordered_map<std::string, ExperimentId> experiment_by_request;
  std::set<WorkerId> idle_workers;  // Where a rank may be placed now.
  std::set<std::pair<absl::Time, WorkerId>> worker_deadlines;
};

/// The number of the run's next attempt. In a state that was restored from a backup it is above every number that may
/// have been given out since the backup: what still carries one of those is fenced.
int NextAttempt(const State& state, const Run& run);

/// The run's place in the queue.
QueueKey KeyOf(const Run& run);
Demand DemandOf(const RunInfo& info);
LineKey LineOf(const Run& run);

/// What `owner` has had up to `now`, in worker seconds, each counted less the longer ago it was: by half after each
/// half-life. Workers that he holds now count from `as_of` on. A half-life of zero forgets at once.
double UsageAt(const Owner& owner, absl::Time now, absl::Duration half_life);

/// Whether a rank may be placed there now: connected, with a lease, not cordoned, not draining, nothing held.
bool IsIdle(const Worker& worker);

/// Fills the indexes of a state that was just loaded, and gives every worker that holds a live rank one lease from
/// `now` to come back in.
void BuildIndexes(State& state, absl::Time now, absl::Duration lease);

}  // namespace normlab::engine
