#pragma once

#include "coordinator/service/engine_port.h"
#include "normlab/v1/experiment.grpc.pb.h"

namespace normlab::service {

/// See experiment.proto. Stateless; any thread.
class ExperimentService final : public v1::ExperimentService::CallbackService {
 public:
  explicit ExperimentService(EnginePort& engine) : engine_(engine) {}

  grpc::ServerUnaryReactor* CreateExperiment(grpc::CallbackServerContext* context,
                                             const v1::CreateExperimentRequest* request,
                                             v1::CreateExperimentResponse* response) override;
  grpc::ServerUnaryReactor* GetExperiment(grpc::CallbackServerContext* context, const v1::GetExperimentRequest* request,
                                          v1::Experiment* response) override;
  grpc::ServerUnaryReactor* ListExperiments(grpc::CallbackServerContext* context,
                                            const v1::ListExperimentsRequest* request,
                                            v1::ListExperimentsResponse* response) override;

 private:
  EnginePort& engine_;
};

}  // namespace normlab::service
