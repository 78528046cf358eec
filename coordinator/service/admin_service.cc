#include "coordinator/service/admin_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "common/build_id.h"
#include "common/status.h"
#include "common/version.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/unary.h"
#include "coordinator/store/convert.h"
#include "coordinator/store/keys.h"

namespace normlab::service {
namespace {

absl::StatusOr<engine::CordonWorker> ToCommand(const v1::SetWorkerCordonRequest& request) {
  NORMLAB_RETURN_IF_ERROR(CheckName("worker_id", request.worker_id()));
  NORMLAB_RETURN_IF_ERROR(CheckName("actor", request.actor()));
  return engine::CordonWorker{
      .worker = {request.worker_id()}, .cordoned = request.cordoned(), .actor = "user:" + request.actor()};
}

absl::Status NoTokens() {
  return absl::FailedPreconditionError(
      "this coordinator asks for no tokens: start it with --require-tokens (beyond the loopback it always does)");
}

v1::Role ToMessage(Role role) { return static_cast<v1::Role>(static_cast<int>(role) + v1::VIEWER); }

v1::TokenInfo ToMessage(const TokenRecord& record) {
  v1::TokenInfo message;
  message.set_id(record.id);
  message.set_name(record.name);
  message.set_role(ToMessage(record.role));
  message.set_created_by(record.created_by);
  *message.mutable_created_at() = store::ToTimestamp(record.created_at);
  if (record.expires_at) *message.mutable_expires_at() = store::ToTimestamp(*record.expires_at);
  return message;
}

}  // namespace

grpc::ServerUnaryReactor* AdminService::GetInfo(grpc::CallbackServerContext* context,
                                                const v1::GetInfoRequest* /*request*/, v1::Info* response) {
  return FinishFromState(context, engine_, [this, response](const View& view) {
    response->set_version(kVersion);
    response->set_build(std::string(BuildId()));
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

grpc::ServerUnaryReactor* AdminService::WhoAmI(grpc::CallbackServerContext* context,
                                               const v1::WhoAmIRequest* /*request*/, v1::WhoAmIResponse* response) {
  const Caller& caller = CallContext::Of(*context).caller();
  response->set_name(caller.name);
  response->set_role(ToMessage(caller.role));
  response->set_token_id(caller.token_id);
  return FinishNow(context, absl::OkStatus());
}

absl::Status AdminService::FillToken(const Caller& caller, const v1::CreateTokenRequest& request,
                                     v1::CreateTokenResponse* response) {
  if (tokens_ == nullptr) return NoTokens();
  NORMLAB_RETURN_IF_ERROR(CheckName("name", request.name()));
  if (request.role() < v1::VIEWER || request.role() > v1::WORKER) {
    return absl::InvalidArgumentError("role: must be VIEWER, SUBMITTER, OPERATOR or WORKER");
  }
  std::optional<absl::Duration> lifetime;
  if (request.has_lifetime()) {
    lifetime = absl::Seconds(request.lifetime().seconds()) + absl::Nanoseconds(request.lifetime().nanos());
  }
  NORMLAB_ASSIGN_OR_RETURN(auto created, tokens_->Create(request.name(), static_cast<Role>(request.role() - v1::VIEWER),
                                                         lifetime, caller.name));
  response->set_token(std::move(created.token));
  *response->mutable_info() = ToMessage(created.record);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AdminService::CreateToken(grpc::CallbackServerContext* context,
                                                    const v1::CreateTokenRequest* request,
                                                    v1::CreateTokenResponse* response) {
  return FinishNow(context, FillToken(CallContext::Of(*context).caller(), *request, response));
}

grpc::ServerUnaryReactor* AdminService::ListTokens(grpc::CallbackServerContext* context,
                                                   const v1::ListTokensRequest* /*request*/,
                                                   v1::ListTokensResponse* response) {
  if (tokens_ == nullptr) return FinishNow(context, NoTokens());
  for (const TokenRecord& record : tokens_->List()) *response->add_tokens() = ToMessage(record);
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::RevokeToken(grpc::CallbackServerContext* context,
                                                    const v1::RevokeTokenRequest* request,
                                                    v1::RevokeTokenResponse* /*response*/) {
  if (tokens_ == nullptr) return FinishNow(context, NoTokens());
  const absl::Status revoked = tokens_->Revoke(request->id());
  if (revoked.ok()) guard_.EndRevokedStreams();
  return FinishNow(context, revoked);
}

}  // namespace normlab::service
