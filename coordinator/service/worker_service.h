#pragma once

#include "coordinator/service/engine_port.h"
#include "coordinator/service/sessions.h"
#include "normlab/v1/worker.grpc.pb.h"

namespace normlab::service {

/// See worker.proto. Any thread.
class WorkerService final : public v1::WorkerService::CallbackService {
 public:
  WorkerService(EnginePort& engine, Sessions& sessions) : engine_(engine), sessions_(sessions) {}

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Session(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context, const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;

 private:
  EnginePort& engine_;
  Sessions& sessions_;
};

}  // namespace normlab::service
