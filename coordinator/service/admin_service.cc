#include "coordinator/service/admin_service.h"

#include <algorithm>

#include "common/status.h"
#include "common/version.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/unary.h"
#include "coordinator/store/keys.h"

namespace normlab::service {
namespace {

absl::StatusOr<engine::CordonWorker> ToCommand(const v1::SetWorkerCordonRequest& request) {
  NORMLAB_RETURN_IF_ERROR(CheckName("worker_id", request.worker_id()));
  NORMLAB_RETURN_IF_ERROR(CheckName("actor", request.actor()));
  return engine::CordonWorker{
      .worker = {request.worker_id()}, .cordoned = request.cordoned(), .actor = "user:" + request.actor()};
}

}  // namespace

grpc::ServerUnaryReactor* AdminService::GetInfo(grpc::CallbackServerContext* context,
                                                const v1::GetInfoRequest* /*request*/, v1::Info* response) {
  return FinishFromState(context, engine_, [this, response](const View& view) {
    response->set_version(kVersion);
    response->set_protocol_version(kProtocolVersion);
    response->set_schema_version(store::kSchemaVersion);
    response->set_http_address(http_address_);
    response->set_num_experiments(static_cast<int64_t>(view.state.experiments.size()));
    response->set_num_runs(static_cast<int64_t>(view.state.runs.size()));
    response->set_num_workers(std::count_if(view.state.workers.begin(), view.state.workers.end(),
                                            [](const auto& entry) { return entry.second.has_lease; }));
    response->set_revision(view.state.revision);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::SetWorkerCordon(grpc::CallbackServerContext* context,
                                                        const v1::SetWorkerCordonRequest* request,
                                                        v1::SetWorkerCordonResponse* response) {
  return FinishFromReply(context, engine_, ToCommand(*request), [response](const engine::Reply& reply, const View&) {
    response->set_changed(std::get<engine::WorkerCordoned>(reply).changed);
  });
}

}  // namespace normlab::service
