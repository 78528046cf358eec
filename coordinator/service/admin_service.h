#pragma once

#include <string>
#include <utility>

#include "coordinator/service/engine_port.h"
#include "normlab/v1/admin.grpc.pb.h"

namespace normlab::service {

/// See admin.proto. Any thread.
class AdminService final : public v1::AdminService::CallbackService {
 public:
  AdminService(EnginePort& engine, std::string http_address)
      : engine_(engine), http_address_(std::move(http_address)) {}

  grpc::ServerUnaryReactor* GetInfo(grpc::CallbackServerContext* context, const v1::GetInfoRequest* request,
                                    v1::Info* response) override;
  grpc::ServerUnaryReactor* SetWorkerCordon(grpc::CallbackServerContext* context,
                                            const v1::SetWorkerCordonRequest* request,
                                            v1::SetWorkerCordonResponse* response) override;

 private:
  EnginePort& engine_;
  const std::string http_address_;
};

}  // namespace normlab::service
