#pragma once

#include <string>
#include <utility>

#include "coordinator/service/auth_guard.h"
#include "coordinator/service/auth_tokens.h"
#include "coordinator/service/engine_port.h"
#include "normlab/v1/admin.grpc.pb.h"

namespace normlab::service {

/// See admin.proto. Any thread.
class AdminService final : public v1::AdminService::CallbackService {
 public:
  /// `tokens` is null if none are asked for.
  AdminService(EnginePort& engine, Guard& guard, TokenStore* tokens, std::string http_address)
      : engine_(engine), guard_(guard), tokens_(tokens), http_address_(std::move(http_address)) {}

  grpc::ServerUnaryReactor* GetInfo(grpc::CallbackServerContext* context, const v1::GetInfoRequest* request,
                                    v1::Info* response) override;
  grpc::ServerUnaryReactor* SetWorkerCordon(grpc::CallbackServerContext* context,
                                            const v1::SetWorkerCordonRequest* request,
                                            v1::SetWorkerCordonResponse* response) override;
  grpc::ServerUnaryReactor* WhoAmI(grpc::CallbackServerContext* context, const v1::WhoAmIRequest* request,
                                   v1::WhoAmIResponse* response) override;
  grpc::ServerUnaryReactor* CreateToken(grpc::CallbackServerContext* context, const v1::CreateTokenRequest* request,
                                        v1::CreateTokenResponse* response) override;
  grpc::ServerUnaryReactor* ListTokens(grpc::CallbackServerContext* context, const v1::ListTokensRequest* request,
                                       v1::ListTokensResponse* response) override;
  grpc::ServerUnaryReactor* RevokeToken(grpc::CallbackServerContext* context, const v1::RevokeTokenRequest* request,
                                        v1::RevokeTokenResponse* response) override;

 private:
  absl::Status FillToken(const Caller& caller, const v1::CreateTokenRequest& request,
                         v1::CreateTokenResponse* response);

  EnginePort& engine_;
  Guard& guard_;
  TokenStore* const tokens_;
  const std::string http_address_;
};

}  // namespace normlab::service
