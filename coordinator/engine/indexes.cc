#include "coordinator/engine/indexes.h"

#include <algorithm>
#include <cmath>

#include "coordinator/engine/engine.h"

namespace normlab::engine {
namespace {

/// When Tick has to look at this worker: its lease ends, an exit report is overdue, or it was lost long enough ago.
std::optional<absl::Time> Deadline(const Worker& worker) {
  if (!worker.has_lease) {
    if (worker.is_cordoned) return std::nullopt;
    return worker.lease_expires_at + kLostWorkerKept;
  }
  return worker.exit_due ? std::min(worker.lease_expires_at, *worker.exit_due) : worker.lease_expires_at;
}

/// The worker of a live rank that was running when the coordinator ended: it may come back for one lease.
void ExpectBack(State& state, const Run& run, int rank, absl::Time expires_at) {
  Worker& worker = state.workers[run.gang[rank]];
  worker.id = run.gang[rank];
  worker.has_lease = true;
  worker.lease_expires_at = expires_at;
  worker.attempt = AttemptRef{run.id, run.attempt, rank};
}

}  // namespace

int NextAttempt(const State& state, const Run& run) { return std::max(run.attempt + 1, state.attempt_floor); }

QueueKey KeyOf(const Run& run) { return {-run.priority, run.queued_at, run.id}; }

Demand DemandOf(const RunInfo& info) { return {info.worker_labels, info.world_size, info.smaller_worlds}; }

LineKey LineOf(const Run& run) { return {-run.priority, run.info->owner, DemandOf(*run.info)}; }

double UsageAt(const Owner& owner, absl::Time now, absl::Duration half_life) {
  if (half_life <= absl::ZeroDuration()) return 0;
  const double half_lives = std::max(0.0, absl::FDivDuration(now - owner.as_of, half_life));
  const double kept = std::exp2(-half_lives);
  // The integral of num_workers * 2^(-t / half_life) over what has passed.
  const double held = owner.num_workers * absl::ToDoubleSeconds(half_life) / M_LN2 * (1 - kept);
  return owner.worker_seconds * kept + held;
}

bool IsIdle(const Worker& worker) {
  return worker.is_connected && worker.has_lease && !worker.is_cordoned && !worker.is_draining && !worker.attempt;
}

void EnterQueue(State& state, const Run& run) {
  const QueueKey key = KeyOf(run);
  state.queue.insert(key);
  ++state.owners[run.info->owner].num_queued;
  if (!run.is_held) state.lines[LineOf(run)].insert({run.queued_at, run.id});
  if (run.not_before) state.backoffs.emplace(*run.not_before, run.id);
}

void LeaveQueue(State& state, const Run& run) {
  const QueueKey key = KeyOf(run);
  state.queue.erase(key);
  --state.owners[run.info->owner].num_queued;
  if (!run.is_held) {
    const auto line = state.lines.find(LineOf(run));
    line->second.erase({run.queued_at, run.id});
    if (line->second.empty()) state.lines.erase(line);
  }
  if (run.not_before) state.backoffs.erase({*run.not_before, run.id});
}

void EnterLive(State& state, const Run& run) {
  state.live_runs.insert(run.id);
  state.live_by_priority.emplace(run.priority, run.id);
  state.owners[run.info->owner].num_workers += static_cast<int>(run.gang.size());
}

void LeaveLive(State& state, const Run& run) {
  state.live_runs.erase(run.id);
  state.live_by_priority.erase({run.priority, run.id});
  state.owners[run.info->owner].num_workers -= static_cast<int>(run.gang.size());
}

void IndexWorker(State& state, Worker& worker) {
  if (IsIdle(worker)) {
    state.idle_workers.insert(worker.id);
  } else {
    state.idle_workers.erase(worker.id);
  }
  const std::optional<absl::Time> deadline = Deadline(worker);
  if (deadline == worker.indexed_deadline) return;
  if (worker.indexed_deadline) state.worker_deadlines.erase({*worker.indexed_deadline, worker.id});
  if (deadline) state.worker_deadlines.emplace(*deadline, worker.id);
  worker.indexed_deadline = deadline;
}

void ForgetWorker(State& state, const WorkerId& id) {
  const auto found = state.workers.find(id);
  const Worker& worker = found->second;
  state.idle_workers.erase(worker.id);
  if (worker.indexed_deadline) state.worker_deadlines.erase({*worker.indexed_deadline, worker.id});
  state.workers.erase(found);
}

void BuildIndexes(State& state, absl::Time now, absl::Duration lease) {
  state.queue.clear();
  state.lines.clear();
  state.backoffs.clear();
  state.live_runs.clear();
  state.live_by_priority.clear();
  for (auto& [name, owner] : state.owners) owner.num_workers = owner.num_queued = 0;
  state.experiment_by_request.clear();
  state.idle_workers.clear();
  state.worker_deadlines.clear();
  for (const auto& [id, experiment] : state.experiments) {
    state.experiment_by_request.emplace(experiment.request_id, id);
  }
  for (const auto& [id, run] : state.runs) {
    if (run.state == RunState::kQueued) EnterQueue(state, run);
    if (!IsLive(run.state)) continue;
    EnterLive(state, run);
    for (int rank = 0; rank < static_cast<int>(run.gang.size()); ++rank) {
      if (run.ranks[rank] != RankState::kEnded) ExpectBack(state, run, rank, now + lease);
    }
  }
  for (auto& [id, worker] : state.workers) {
    worker.indexed_deadline.reset();
    IndexWorker(state, worker);
  }
}

std::optional<absl::Time> NextDeadline(const State& state) {
  std::optional<absl::Time> next;
  if (!state.worker_deadlines.empty()) next = state.worker_deadlines.begin()->first;
  if (!state.backoffs.empty()) {
    const absl::Time backoff_end = state.backoffs.begin()->first;
    next = next ? std::min(*next, backoff_end) : backoff_end;
  }
  return next;
}

}  // namespace normlab::engine
