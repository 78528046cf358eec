#include <fmt/format.h>

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
  if (static_cast<int>(command.gang.size()) != run.info->world_size) {
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

}  // namespace

absl::StatusOr<Reply> Handle(Transaction& tx, const PlaceRun& command) {
  const auto found = tx.state.runs.find(command.run);
  if (found == tx.state.runs.end()) {
    return absl::NotFoundError(fmt::format("there is no run {}", command.run.ToString()));
  }
  Run& run = found->second;
  NORMLAB_RETURN_IF_ERROR(CheckRun(run, command, tx.now));
  NORMLAB_RETURN_IF_ERROR(CheckGang(tx.state, run, command.gang));

  ++run.attempt;
  run.gang = command.gang;
  run.ranks.assign(command.gang.size(), RankState::kHeld);
  run.outcome = Outcome::kNone;
  run.outcome_detail.clear();
  run.started_at = tx.now;
  tx.Move(run, RunEvent::kPlaced, kCoordinatorActor,
          fmt::format("attempt {} on {}", run.attempt, NamesText(command.gang)));
  for (int rank = 0; rank < run.info->world_size; ++rank) {
    Worker& worker = tx.state.workers.at(command.gang[rank]);
    worker.attempt = AttemptRef{run.id, run.attempt, rank};
    IndexWorker(tx.state, worker);
  }
  StartRank(tx, run, 0);
  return Done();
}

}  // namespace normlab::engine
