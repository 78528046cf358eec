#include "coordinator/service/experiment_service.h"

#include <fmt/format.h>

#include <optional>

#include "common/status.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/unary.h"

namespace normlab::service {
namespace {

/// Newest first, from before `before` on.
absl::Status FillPage(const View& view, std::optional<ExperimentId> before, int page_size,
                      v1::ListExperimentsResponse* response) {
  const auto& experiments = view.state.experiments;
  auto next = before ? experiments.lower_bound(*before) : experiments.end();
  size_t bytes = 0;
  while (next != experiments.begin()) {
    if (response->experiments_size() >= page_size || bytes >= kPageBytesMax) {
      response->set_next_page_token(response->experiments().rbegin()->id());
      break;
    }
    --next;
    v1::Experiment* added = response->add_experiments();
    *added = ToMessage(next->second, view);
    bytes += added->ByteSizeLong();
  }
  response->set_revision(view.state.revision);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* ExperimentService::CreateExperiment(grpc::CallbackServerContext* context,
                                                              const v1::CreateExperimentRequest* request,
                                                              v1::CreateExperimentResponse* response) {
  absl::StatusOr<engine::CreateExperiment> command = ToCommand(*request);
  // Here, not on the engine's thread. A request id that is known has the same spec, or is refused.
  if (command.ok()) response->mutable_experiment()->mutable_spec()->ParseFromString(command->spec);
  return FinishFromReply(context, engine_, std::move(command),
                         [response](const engine::Reply& reply, const View& view) {
                           const auto& created = std::get<engine::ExperimentCreated>(reply);
                           const engine::Experiment& experiment = view.state.experiments.at(created.id);
                           FillFromState(experiment, view, *response->mutable_experiment());
                           for (int32_t index = 1; index <= experiment.num_runs; ++index) {
                             response->add_run_ids(RunId{created.id, index}.ToString());
                           }
                           response->set_already_existed(created.already_existed);
                         });
}

grpc::ServerUnaryReactor* ExperimentService::GetExperiment(grpc::CallbackServerContext* context,
                                                           const v1::GetExperimentRequest* request,
                                                           v1::Experiment* response) {
  const auto id = ParseExperimentId("id", request->id());
  if (!id.ok()) return FinishNow(context, id.status());
  return FinishFromState(context, engine_, [id = *id, response](const View& view) {
    const auto found = view.state.experiments.find(id);
    if (found == view.state.experiments.end()) {
      return absl::NotFoundError(fmt::format("there is no experiment {}", id.ToString()));
    }
    *response = ToMessage(found->second, view);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ExperimentService::ListExperiments(grpc::CallbackServerContext* context,
                                                             const v1::ListExperimentsRequest* request,
                                                             v1::ListExperimentsResponse* response) {
  const auto page_size = PageSize(request->page_size(), kPageSizeDefault, kPageSizeMax);
  if (!page_size.ok()) return FinishNow(context, page_size.status());
  std::optional<ExperimentId> before;
  if (!request->page_token().empty()) {
    const auto token = ParseExperimentId("page_token", request->page_token());
    if (!token.ok()) return FinishNow(context, token.status());
    before = *token;
  }
  return FinishFromState(context, engine_, [before, page_size = *page_size, response](const View& view) {
    return FillPage(view, before, page_size, response);
  });
}

}  // namespace normlab::service
