#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "common/status.h"
#include "coordinator/engine/attempts.h"
#include "coordinator/engine/handlers.h"
#include "coordinator/engine/indexes.h"
#include "coordinator/engine/labels.h"

// The scheduler decides on the state as it was; here its decision meets the state as it is.
namespace normlab::engine {
namespace {

absl::Status CheckRun(const Run& run, const PlaceRun& command, absl::Time now) {
  if (run.state != RunState::kQueued) {
    return absl::FailedPreconditionError(
        fmt::format("{} is {}: only a queued run can be placed", run.id.ToString(), Name(run.state)));
  }
  if (run.not_before && *run.not_before > now) {
    return absl::FailedPreconditionError(
        fmt::format("{} may not start for another {}", run.id.ToString(), absl::FormatDuration(*run.not_before - now)));
  }
  if (run.is_held) {
    return absl::FailedPreconditionError(fmt::format("{} is held: release it first", run.id.ToString()));
  }
  const int world_size = static_cast<int>(command.gang.size());
  const std::vector<int>& smaller = run.info->smaller_worlds;
  if (world_size != run.info->world_size && std::find(smaller.begin(), smaller.end(), world_size) == smaller.end()) {
    return absl::FailedPreconditionError(fmt::format("{} needs a gang of {}, {} workers were given", run.id.ToString(),
                                                     run.info->world_size, command.gang.size()));
  }
  return absl::OkStatus();
}

absl::Status CheckWorker(const State& state, const Run& run, const WorkerId& id) {
  const auto found = state.workers.find(id);
  if (found == state.workers.end() || !IsIdle(found->second)) {
    return absl::FailedPreconditionError(
        fmt::format("{} cannot be placed: worker {} is not idle any more", run.id.ToString(), id.name));
  }
  if (!HasLabels(found->second.info.labels, run.info->worker_labels)) {
    return absl::FailedPreconditionError(fmt::format("{} cannot be placed: worker {} lacks some of {}",
                                                     run.id.ToString(), id.name, LabelsText(run.info->worker_labels)));
  }
  return absl::OkStatus();
}

absl::Status CheckGang(const State& state, const Run& run, const std::vector<WorkerId>& gang) {
  std::set<WorkerId> seen;
  for (const WorkerId& id : gang) {
    if (!seen.insert(id).second) {
      return absl::FailedPreconditionError(
          fmt::format("{} cannot be placed: worker {} stands twice in its gang", run.id.ToString(), id.name));
    }
    NORMLAB_RETURN_IF_ERROR(CheckWorker(state, run, id));
  }
  return absl::OkStatus();
}

absl::Status CheckQuota(const Transaction& tx, const Run& run, size_t world_size) {
  const int workers_max = tx.options.policy.workers_per_user_max;
  const auto owner = tx.state.owners.find(run.info->owner);
  const int num_workers = owner == tx.state.owners.end() ? 0 : owner->second.num_workers;
  if (workers_max == 0 || num_workers + static_cast<int>(world_size) <= workers_max) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("{} cannot be placed: {} has {} workers, {} more would pass the {} "
                  "that a user may have",
                  run.id.ToString(), run.info->owner, num_workers, world_size, workers_max));
}

absl::StatusOr<Run*> GetRun(State& state, RunId id) {
  const auto found = state.runs.find(id);
  if (found == state.runs.end()) return absl::NotFoundError(fmt::format("there is no run {}", id.ToString()));
  return &found->second;
}

absl::Status CheckPreemption(const Transaction& tx, const Run& run, const Run& beneficiary) {
  const std::string id = run.id.ToString();
  if (run.state != RunState::kRunning || run.outcome != Outcome::kNone) {
    return absl::FailedPreconditionError(fmt::format("{} is {}: only a running run is preempted", id, Name(run.state)));
  }
  if (run.info->on_preemption == RequeuePolicy::kNever) {
    return absl::FailedPreconditionError(fmt::format("{} is not preempted: resources.on_preemption is never", id));
  }
  if (beneficiary.state != RunState::kQueued || beneficiary.priority <= run.priority) {
    return absl::FailedPreconditionError(
        fmt::format("{} with priority {} is not preempted for {}, which is {} with priority {}", id, run.priority,
                    beneficiary.id.ToString(), Name(beneficiary.state), beneficiary.priority));
  }
  const absl::Duration ran = tx.now - run.started_at.value_or(tx.now);
  if (ran < tx.options.policy.run_time_min) {
    return absl::FailedPreconditionError(fmt::format("{} is not preempted after {}: an attempt has {}", id,
                                                     absl::FormatDuration(ran),
                                                     absl::FormatDuration(tx.options.policy.run_time_min)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Reply> Handle(Transaction& tx, const PreemptRun& command) {
  NORMLAB_ASSIGN_OR_RETURN(Run * run, GetRun(tx.state, command.run));
  NORMLAB_ASSIGN_OR_RETURN(const Run* beneficiary, GetRun(tx.state, command.beneficiary));
  NORMLAB_RETURN_IF_ERROR(CheckPreemption(tx, *run, *beneficiary));
  AskToStop(tx, *run, StopIntent::kRequeue, kCoordinatorActor,
            fmt::format("preempted: {} with priority {} needs its workers, this run has priority {}",
                        command.beneficiary.ToString(), beneficiary->priority, run->priority),
            Cause::kPreempted);
  return Done();
}

absl::StatusOr<Reply> Handle(Transaction& tx, const PlaceRun& command) {
  NORMLAB_ASSIGN_OR_RETURN(Run * found, GetRun(tx.state, command.run));
  Run& run = *found;
  NORMLAB_RETURN_IF_ERROR(CheckRun(run, command, tx.now));
  NORMLAB_RETURN_IF_ERROR(CheckGang(tx.state, run, command.gang));
  NORMLAB_RETURN_IF_ERROR(CheckQuota(tx, run, command.gang.size()));

  run.attempt = NextAttempt(tx.state, run);
  run.gang = command.gang;
  run.ranks.assign(command.gang.size(), RankState::kHeld);
  run.outcome = Outcome::kNone;
  run.outcome_detail.clear();
  run.started_at = tx.now;
  tx.Move(run, RunEvent::kPlaced, kCoordinatorActor,
          fmt::format("attempt {} on {}{}", run.attempt, NamesText(command.gang),
                      command.gang.size() == static_cast<size_t>(run.info->world_size)
                          ? ""
                          : fmt::format(" ({} instead of {} workers)", command.gang.size(), run.info->world_size)));
  for (int rank = 0; rank < static_cast<int>(run.gang.size()); ++rank) {
    Worker& worker = tx.state.workers.at(command.gang[rank]);
    worker.attempt = AttemptRef{run.id, run.attempt, rank};
    IndexWorker(tx.state, worker);
  }
  StartRank(tx, run, 0);
  return Done();
}

}  // namespace normlab::engine
