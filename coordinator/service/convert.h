#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <string>

#include "common/spec.h"
#include "coordinator/engine/command.h"
#include "coordinator/engine/effect.h"
#include "coordinator/service/engine_port.h"
#include "normlab/v1/experiment.pb.h"
#include "normlab/v1/run.pb.h"
#include "normlab/v1/worker.pb.h"

// Requests -> commands, replies and state -> messages. (Runs and experiments themselves: store/convert.h.) Each
// function that can fail does so with INVALID_ARGUMENT, or RESOURCE_EXHAUSTED for too many of something, naming the
// field, what is wrong with it, and what is allowed.
namespace normlab::service {

/// 1 to kIdBytesMax bytes of printable ASCII without blanks.
absl::Status CheckName(const std::string& field, const std::string& value);
/// At most `bytes_max` bytes of UTF-8.
absl::Status CheckText(const std::string& field, const std::string& value, size_t bytes_max);

/// The first `bytes_max` bytes at most, without a torn character at the end: a string that is no UTF-8 could be stored
/// but not read again.
std::string Cut(const std::string& text, size_t bytes_max);

absl::StatusOr<ExperimentId> ParseExperimentId(const std::string& field, const std::string& text);
absl::StatusOr<RunId> ParseRunId(const std::string& field, const std::string& text);
/// Its runs are in order, each once.
absl::StatusOr<engine::Selector> ToSelector(const v1::RunSelector& selector);

/// Checks, fills in and expands; the message of a refusal has one line per violation.
absl::StatusOr<engine::CreateExperiment> ToCommand(const v1::CreateExperimentRequest& request);
/// An empty selector is refused: it would mean every run.
absl::StatusOr<engine::CancelRuns> ToCommand(const v1::CancelRunsRequest& request);
absl::StatusOr<engine::RequeueRuns> ToCommand(const v1::RequeueRunsRequest& request);
absl::StatusOr<engine::UpdateRuns> ToCommand(const v1::UpdateRunsRequest& request);
absl::StatusOr<engine::RecordAnalysis> ToCommand(const v1::RecordAnalysisRequest& request);
absl::StatusOr<engine::WorkerHello> ToCommand(const v1::WorkerHello& hello);
absl::StatusOr<engine::WorkerReport> ToCommand(const v1::AttemptReport& report, const WorkerId& worker,
                                               const std::string& incarnation);

/// All but the spec, which takes longest and which no state is needed for; with runs_by_state.
void FillFromState(const engine::Experiment& experiment, const View& view, v1::Experiment& message);
/// All of it.
v1::Experiment ToMessage(const engine::Experiment& experiment, const View& view);
/// As lists and watches show it: without layers.
v1::Run ToListedRun(const engine::Run& run);
v1::ChangeRunsResponse ToMessage(const engine::RunsChanged& changed);
v1::CoordinatorMessage ToMessage(const engine::WorkerCommand& command);
v1::Worker ToMessage(const engine::Worker& worker);
v1::Worker::State StateOf(const engine::Worker& worker);

}  // namespace normlab::service
