#include "coordinator/service/worker_service.h"

#include "coordinator/service/convert.h"
#include "coordinator/service/unary.h"

namespace normlab::service {

grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* WorkerService::Session(
    grpc::CallbackServerContext* /*context*/) {
  return sessions_.Open();
}

grpc::ServerUnaryReactor* WorkerService::ListWorkers(grpc::CallbackServerContext* context,
                                                     const v1::ListWorkersRequest* /*request*/,
                                                     v1::ListWorkersResponse* response) {
  return FinishFromState(context, engine_, [response](const View& view) {
    for (const auto& [id, worker] : view.state.workers) *response->add_workers() = ToMessage(worker);
    return absl::OkStatus();
  });
}

}  // namespace normlab::service
