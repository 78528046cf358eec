#include <fmt/format.h>

#include <memory>

#include "common/status.h"
#include "coordinator/engine/handlers.h"
#include "coordinator/engine/indexes.h"
#include "coordinator/engine/selection.h"

namespace normlab::engine {
namespace {

absl::StatusOr<Reply> AnswerAgain(const State& state, const CreateExperiment& command, ExperimentId id) {
  const Experiment& known = state.experiments.at(id);
  if (known.spec_digest != command.spec_digest) {
    return absl::AlreadyExistsError(
        fmt::format("request id {} was used for {}, whose spec has digest {}; this one has {}: choose a new request id",
                    command.request_id, id.ToString(), known.spec_digest, command.spec_digest));
  }
  return ExperimentCreated{.id = id, .already_existed = true};
}

Run MakeRun(const CreateExperiment& command, RunId id, const NewRun& point, absl::Time now) {
  const auto info = std::make_shared<RunInfo>(RunInfo{.axes = point.axes,
                                                      .labels = command.labels,
                                                      .worker_labels = point.worker_labels,
                                                      .owner = command.owner,
                                                      .spec = point.spec,
                                                      .world_size = point.world_size,
                                                      .smaller_worlds = point.smaller_worlds,
                                                      .on_preemption = point.on_preemption,
                                                      .on_loss = point.on_loss,
                                                      .retries_max = point.retries_max,
                                                      .steps = point.steps,
                                                      .created_at = now});
  Run run;
  run.id = id;
  run.info = info;
  run.priority = command.priority;
  run.queued_at = now;
  run.cause = Cause::kUser;
  run.reason = fmt::format("submitted as point {} of {}", id.index, command.runs.size());
  return run;
}

}  // namespace

absl::StatusOr<Reply> Handle(Transaction& tx, const CreateExperiment& command) {
  State& state = tx.state;
  const auto known = state.experiment_by_request.find(command.request_id);
  if (known != state.experiment_by_request.end()) return AnswerAgain(state, command, known->second);

  NORMLAB_RETURN_IF_ERROR(CheckQueueQuota(tx, command.owner, command.runs.size()));
  const ExperimentId id = {++state.last_experiment_number};
  state.experiments[id] = {.id = id,
                           .spec = command.spec,
                           .spec_digest = command.spec_digest,
                           .request_id = command.request_id,
                           .owner = command.owner,
                           .created_at = tx.now,
                           .num_runs = static_cast<int32_t>(command.runs.size())};
  state.experiment_by_request.emplace(command.request_id, id);
  tx.TakeRevision();
  tx.changes.experiments.insert(id);
  int32_t index = 0;
  for (const NewRun& point : command.runs) {
    const RunId run_id = {id, ++index};
    Run& run = state.runs.emplace_hint(state.runs.end(), run_id, MakeRun(command, run_id, point, tx.now))->second;
    EnterQueue(state, run);
    tx.Touch(run);
    tx.Note(run, UserActor(command.owner), run.reason, Cause::kUser);
  }
  return ExperimentCreated{.id = id};
}

}  // namespace normlab::engine
