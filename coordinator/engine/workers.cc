#include <fmt/format.h>

#include <algorithm>

#include "common/status.h"
#include "common/suggest.h"
#include "coordinator/engine/attempts.h"
#include "coordinator/engine/handlers.h"
#include "coordinator/engine/indexes.h"

// Sessions, leases and cordons.
namespace normlab::engine {
namespace {

/// The worker if it is this incarnation that has the lease. The answer to the error is a new hello, which tells the
/// worker what of its work is void.
absl::StatusOr<Worker*> GetLeased(State& state, const WorkerId& id, const std::string& incarnation) {
  const auto found = state.workers.find(id);
  if (found == state.workers.end()) {
    return absl::FailedPreconditionError(fmt::format("worker {} is not known: say hello first", id.name));
  }
  Worker& worker = found->second;
  if (worker.incarnation != incarnation) {
    return absl::FailedPreconditionError(
        fmt::format("worker {} is incarnation \"{}\" now, not \"{}\": two agents may use one name", id.name,
                    worker.incarnation, incarnation));
  }
  if (!worker.has_lease) {
    return absl::FailedPreconditionError(fmt::format("the lease of worker {} was over at {}: say hello again", id.name,
                                                     absl::FormatTime(worker.lease_expires_at, absl::UTCTimeZone())));
  }
  return &worker;
}

bool Contains(const std::vector<AttemptRef>& refs, const AttemptRef& ref) {
  return std::find(refs.begin(), refs.end(), ref) != refs.end();
}

/// The agent is a new process. Its trainers died with the old one.
void LoseFormerWork(Transaction& tx, Worker& worker) {
  const AttemptRef ref = *worker.attempt;
  Release(tx, worker.id, ref);
  Run* run = FindCurrent(tx.state, worker.id, ref);
  if (run == nullptr) return;
  EndRank(tx, *run, ref.rank,
          {.cause = Cause::kWorkerRestarted,
           .actor = WorkerActor(worker.id),
           .words = fmt::format("worker {} was restarted and rank {} died with it", worker.id.name, ref.rank)});
}

/// Repeats what the worker may have missed about the current rank it holds.
void ResumeRank(Transaction& tx, Worker& worker, Run& run, bool is_running) {
  const AttemptRef ref = *worker.attempt;
  const bool was_sent = run.ranks[ref.rank] != RankState::kHeld;
  if (IsEnding(run) && was_sent) {
    tx.Send(worker.id, SendStop{.attempt = ref, .grace = tx.options.stop_grace, .reason = run.reason});
  } else if (!is_running && run.ranks[ref.rank] == RankState::kSent) {
    StartRank(tx, run, ref.rank);
    return;
  }
  if (is_running || !was_sent) {
    worker.exit_due.reset();
  } else if (!worker.exit_due) {
    // Its exit report, and what the rank said before, follow this hello. If the agent has lost them, time decides.
    worker.exit_due = tx.now + tx.options.lease;
  }
}

std::vector<AttemptRef> FindFenced(State& state, const WorkerHello& command) {
  std::vector<AttemptRef> fenced;
  for (const AttemptRef& ref : command.running) {
    if (FindCurrent(state, command.worker, ref) == nullptr) fenced.push_back(ref);
  }
  return fenced;
}

void EndLease(Transaction& tx, Worker& worker) {
  worker.has_lease = false;
  worker.is_connected = false;
  worker.attempt.reset();
  worker.exit_due.reset();
  if (worker.is_draining && !worker.is_cordoned) {
    ForgetWorker(tx.state, worker.id);
  } else {
    IndexWorker(tx.state, worker);
  }
}

void LoseWorker(Transaction& tx, Worker& worker) {
  const WorkerId id = worker.id;
  const std::optional<AttemptRef> ref = worker.attempt;
  const absl::Duration silence = tx.now - worker.lease_expires_at + tx.options.lease;
  // It may only be slow: what it still runs is void.
  if (ref) tx.Send(id, SendStop{.attempt = *ref, .grace = absl::ZeroDuration(), .reason = "the lease is over"});
  EndLease(tx, worker);
  if (!ref) return;
  Run* run = FindCurrent(tx.state, id, *ref);
  if (run == nullptr) return;
  EndRank(tx, *run, ref->rank,
          {.cause = Cause::kWorkerLost,
           .actor = kCoordinatorActor,
           .words = fmt::format("worker {} with rank {} was lost: no heartbeat for {}", id.name, ref->rank,
                                absl::FormatDuration(absl::Trunc(silence, absl::Milliseconds(1))))});
}

/// The worker lives but never said how its rank ended.
void GiveUpOnExit(Transaction& tx, Worker& worker) {
  const AttemptRef ref = *worker.attempt;
  Release(tx, worker.id, ref);
  Run* run = FindCurrent(tx.state, worker.id, ref);
  if (run == nullptr) return;
  EndRank(tx, *run, ref.rank,
          {.cause = Cause::kWorkerRestarted,
           .actor = kCoordinatorActor,
           .words = fmt::format("worker {} came back without rank {} and did not report its end within {}",
                                worker.id.name, ref.rank, absl::FormatDuration(tx.options.lease))});
}

void MeetDeadline(Transaction& tx, Worker& worker) {
  if (!worker.has_lease) {
    ForgetWorker(tx.state, worker.id);
  } else if (worker.lease_expires_at <= tx.now) {
    LoseWorker(tx, worker);
  } else {
    GiveUpOnExit(tx, worker);
  }
}

}  // namespace

absl::StatusOr<Reply> Handle(Transaction& tx, const WorkerHello& command) {
  Worker& worker = tx.state.workers[command.worker];
  worker.id = command.worker;
  if (worker.incarnation != command.incarnation) {
    // After the coordinator's restart the incarnation is not known, and what the worker lists decides.
    if (!worker.incarnation.empty() && worker.attempt) LoseFormerWork(tx, worker);
    worker.incarnation = command.incarnation;
    worker.is_draining = false;
    worker.last_sequence = 0;
  }
  worker.info = command.info;
  worker.is_connected = true;
  worker.has_lease = true;
  worker.lease_expires_at = tx.now + tx.options.lease;

  std::vector<AttemptRef> fenced = FindFenced(tx.state, command);
  Run* run = worker.attempt ? FindCurrent(tx.state, worker.id, *worker.attempt) : nullptr;
  if (run == nullptr) {
    // Whatever void work lives there occupies the worker until it is killed; what is not listed is gone.
    worker.attempt.reset();
    worker.exit_due.reset();
    if (!fenced.empty()) worker.attempt = fenced.front();
  }
  tx.Send(worker.id, SendWelcome{.lease = tx.options.lease,
                                 .heartbeat_interval = tx.options.heartbeat_interval,
                                 .fenced = std::move(fenced)});
  if (run != nullptr) ResumeRank(tx, worker, *run, Contains(command.running, *worker.attempt));
  IndexWorker(tx.state, worker);
  return Done();
}

absl::StatusOr<Reply> Handle(Transaction& tx, const WorkerHeartbeat& command) {
  NORMLAB_ASSIGN_OR_RETURN(Worker * worker, GetLeased(tx.state, command.worker, command.incarnation));
  // A late heartbeat renews as long as Tick has not declared the lease over: nothing was started elsewhere yet.
  worker->is_connected = true;
  worker->lease_expires_at = tx.now + tx.options.lease;
  IndexWorker(tx.state, *worker);
  tx.Send(worker->id, SendLeaseRenewed());
  return Done();
}

absl::StatusOr<Reply> Handle(Transaction& tx, const WorkerDraining& command) {
  NORMLAB_ASSIGN_OR_RETURN(Worker * worker, GetLeased(tx.state, command.worker, command.incarnation));
  worker->is_draining = true;
  IndexWorker(tx.state, *worker);
  if (!worker->attempt) return Done();
  Run* run = FindCurrent(tx.state, worker->id, *worker->attempt);
  if (run == nullptr || run->state == RunState::kStopping || run->outcome == Outcome::kFinished) return Done();
  // The whole gang has to stop at one step; the agent itself can only reach its own rank.
  AskToStop(tx, *run, StopIntent::kRequeue, WorkerActor(worker->id),
            fmt::format("worker {} with rank {} is draining", worker->id.name, worker->attempt->rank), Cause::kDrained);
  return Done();
}

absl::StatusOr<Reply> Handle(Transaction& tx, const WorkerDisconnected& command) {
  const auto found = tx.state.workers.find(command.worker);
  if (found == tx.state.workers.end() || found->second.incarnation != command.incarnation) return Done();
  Worker& worker = found->second;
  worker.is_connected = false;
  if (worker.is_draining && worker.has_lease && !worker.attempt) {
    EndLease(tx, worker);
  } else {
    IndexWorker(tx.state, worker);
  }
  return Done();
}

absl::StatusOr<Reply> Handle(Transaction& tx, const CordonWorker& command) {
  const auto found = tx.state.workers.find(command.worker);
  if (found == tx.state.workers.end()) {
    std::vector<std::string> known;
    for (const auto& [id, worker] : tx.state.workers) known.push_back(id.name);
    return absl::NotFoundError(fmt::format("there is no worker {} among the {} known{}", command.worker.name,
                                           known.size(), DidYouMean(command.worker.name, known)));
  }
  Worker& worker = found->second;
  if (worker.is_cordoned == command.cordoned) return WorkerCordoned{.changed = false};
  worker.is_cordoned = command.cordoned;
  IndexWorker(tx.state, worker);
  tx.TakeRevision();
  tx.changes.workers.insert(worker.id);
  return WorkerCordoned{.changed = true};
}

absl::StatusOr<Reply> Handle(Transaction& tx, const Tick&) {
  State& state = tx.state;
  while (!state.worker_deadlines.empty() && state.worker_deadlines.begin()->first <= tx.now) {
    MeetDeadline(tx, state.workers.at(state.worker_deadlines.begin()->second));
  }
  while (!state.backoffs.empty() && state.backoffs.begin()->first <= tx.now) {
    Run& run = state.runs.at(state.backoffs.begin()->second);
    state.backoffs.erase(state.backoffs.begin());
    run.not_before.reset();
    tx.Touch(run);
  }
  return Done();
}

}  // namespace normlab::engine
