#include "coordinator/service/auth_guard.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <google/protobuf/descriptor.h>
#include <grpc/grpc.h>

#include <utility>
#include <vector>

#include "common/log.h"
#include "common/status.h"
#include "coordinator/service/limits.h"
#include "normlab/v1/admin.pb.h"
#include "normlab/v1/experiment.pb.h"
#include "normlab/v1/run.pb.h"
#include "normlab/v1/worker.pb.h"

namespace normlab::service {
namespace {

constexpr absl::Duration kLookInterval = absl::Seconds(1);
constexpr char kPackage[] = "normlab.v1.";

/// The token of "authorization: Bearer TOKEN"; UNAUTHENTICATED if there is none. Messages have nothing of the header.
absl::StatusOr<std::string> BearerToken(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("authorization");
  if (found == context.client_metadata().end()) {
    return absl::UnauthenticatedError(
        "this coordinator asks for a token: give --token-file FILE or set NORMLAB_TOKEN_FILE");
  }
  constexpr char kScheme[] = "Bearer ";
  const std::string header(found->second.data(), found->second.size());
  if (!header.starts_with(kScheme)) {
    return absl::UnauthenticatedError("the authorization header must be 'Bearer TOKEN'");
  }
  return header.substr(sizeof(kScheme) - 1);
}

/// Makes protected members of grpc::Service reachable.
struct ServiceAccess : grpc::Service {
  static constexpr auto kMarkMethodCallback = &ServiceAccess::MarkMethodCallback;
};

}  // namespace

namespace auth_internal {

void SetHandler(grpc::Service& service, const std::string& method, grpc::internal::MethodHandler* handler) {
  std::string name = kPackage + method;
  name[name.find('/')] = '.';
  const auto* descriptor = google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(name);
  if (descriptor == nullptr) {
    spdlog::critical("{} is no method of the contract", method);
    std::abort();
  }
  (service.*ServiceAccess::kMarkMethodCallback)(descriptor->index(), handler);
}

}  // namespace auth_internal

class Guard::Allocator final : public grpc::ContextAllocator {
 public:
  explicit Allocator(Guard& guard) : guard_(guard) {}
  grpc::CallbackServerContext* NewCallbackServerContext() override { return new CallContext(); }
  void Release(grpc::CallbackServerContext* context) override {
    // gRPC 1.51 also releases what it made itself, for calls of methods that nobody serves; that it destroys itself.
    auto* known = dynamic_cast<CallContext*>(context);
    if (known == nullptr) return;
    guard_.Forget(*known);
    delete known;
  }

 private:
  Guard& guard_;
};

class Guard::Interceptor final : public grpc::experimental::Interceptor {
 public:
  Interceptor(Guard& guard, grpc::ServerContextBase* context) : guard_(guard), context_(context) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      guard_.Audit(*static_cast<CallContext*>(context_), FromGrpc(methods->GetSendStatus()));
    }
    methods->Proceed();
  }

 private:
  Guard& guard_;
  grpc::ServerContextBase* const context_;
};

class Guard::InterceptorFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit InterceptorFactory(Guard& guard) : guard_(guard) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    // Other calls have contexts of other types: gRPC's own services, and methods that nobody serves.
    const std::string_view path = info->method();
    const std::string prefix = std::string("/") + kPackage;
    const bool is_ours = path.starts_with(prefix) && FindMethodRule(path.substr(prefix.size())) != nullptr;
    return is_ours ? new Interceptor(guard_, info->server_context()) : nullptr;
  }

 private:
  Guard& guard_;
};

Guard::Guard(const Options& options)
    : options_(options), audited_refusals_(kAuditedRefusalsPerSecond, kAuditedRefusalsBurst) {}

const MethodRule* Guard::Take(const std::string& method) {
  protected_.insert(method);
  return FindMethodRule(method);
}

absl::Status Guard::CheckComplete() const {
  std::vector<std::string> missing;
  for (const char* service : {"ExperimentService", "RunService", "WorkerService", "AdminService", "BackupService"}) {
    const auto* descriptor =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(std::string(kPackage) + service);
    for (int i = 0; descriptor != nullptr && i < descriptor->method_count(); ++i) {
      const std::string method = fmt::format("{}/{}", service, descriptor->method(i)->name());
      if (FindMethodRule(method) == nullptr || !protected_.contains(method)) missing.push_back(method);
    }
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::InternalError(
      fmt::format("nobody has said who may call {}: give it a row in coordinator/service/auth_rules.h and a line in "
                  "Server::Protect",
                  fmt::join(missing, ", ")));
}

std::unique_ptr<grpc::ContextAllocator> Guard::MakeContextAllocator() { return std::make_unique<Allocator>(*this); }

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> Guard::MakeInterceptors() {
  return std::make_unique<InterceptorFactory>(*this);
}

absl::Status Guard::Admit(const MethodRule* rule, bool is_stream, CallContext& context) {
  if (rule == nullptr) return absl::InternalError("this method has no rule");
  context.rule_ = rule;
  NORMLAB_RETURN_IF_ERROR(Authorize(*rule, context));
  const std::scoped_lock lock(mutex_);
  // All workers of a pool may have one token, and all come back at once when the coordinator does.
  if (rule->access != Access::kWorker) NORMLAB_RETURN_IF_ERROR(TakeRate(context.caller_));
  return is_stream ? CountStream(*rule, context) : absl::OkStatus();
}

absl::Status Guard::Authorize(const MethodRule& rule, CallContext& context) {
  if (rule.access == Access::kWorker && options_.workers_need_certificate &&
      !context.auth_context()->IsPeerAuthenticated()) {
    return absl::UnauthenticatedError(
        "a worker needs a certificate of an authority that this coordinator knows: give --tls-cert and --tls-key");
  }
  if (options_.tokens == nullptr) return absl::OkStatus();
  NORMLAB_ASSIGN_OR_RETURN(const std::string token, BearerToken(context));
  NORMLAB_ASSIGN_OR_RETURN(context.caller_, options_.tokens->Authenticate(token));
  const Role role = context.caller_.role;
  if (Gives(role, rule.access)) return absl::OkStatus();
  return absl::PermissionDeniedError(fmt::format("{} needs the role {}; the token of {} has the role {}", rule.method,
                                                 RoleFor(rule.access), context.caller_.name, Name(role)));
}

absl::Status Guard::TakeRate(const Caller& caller) {
  if (options_.requests_per_second <= 0 || !caller.is_known()) return absl::OkStatus();
  const double rate = options_.requests_per_second;
  // A second's worth at once: clients come in bursts.
  RateLimit& limit = rates_.try_emplace(caller.token_id, rate, std::max(1.0, rate)).first->second;
  if (limit.Allow(options_.clock->SteadyNow())) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format(
      "the token of {} may make {} requests per second and has made them; try again in a second", caller.name, rate));
}

absl::Status Guard::CountStream(const MethodRule& rule, CallContext& context) {
  const bool is_session = rule.access == Access::kWorker;
  const std::string key = is_session ? "sessions" : "client " + context.caller_.name;
  std::set<CallContext*>& streams = streams_[key];
  const size_t allowed = is_session ? kSessionsMax : kStreamsPerClientMax;
  if (streams.size() >= allowed) {
    return absl::ResourceExhaustedError(
        is_session ? fmt::format("{} workers have a session, at most {} are allowed", streams.size(), allowed)
                   : fmt::format("{} streams of this client are open, at most {} are allowed: end some", streams.size(),
                                 allowed));
  }
  streams.insert(&context);
  context.stream_key_ = key;
  return absl::OkStatus();
}

void Guard::Forget(CallContext& context) {
  if (context.stream_key_.empty()) return;
  const std::scoped_lock lock(mutex_);
  const auto streams = streams_.find(context.stream_key_);
  if (streams == streams_.end()) return;
  streams->second.erase(&context);
  if (streams->second.empty()) streams_.erase(streams);
}

void Guard::OnTick(const View& /*view*/, const engine::Changes& /*changes*/) {
  if (options_.tokens == nullptr) return;
  const absl::Time now = options_.clock->SteadyNow();
  {
    const std::scoped_lock lock(mutex_);
    if (now - looked_at_ < kLookInterval) return;
    looked_at_ = now;
  }
  EndRevokedStreams();
}

void Guard::EndRevokedStreams() {
  if (options_.tokens == nullptr) return;
  std::vector<grpc_call*> ended;
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& [key, streams] : streams_) {
      for (CallContext* stream : streams) {
        if (options_.tokens->IsValid(stream->caller_.token_id)) continue;
        // The context may go as soon as the lock does; the call stays as long as somebody holds it.
        grpc_call_ref(stream->c_call());
        ended.push_back(stream->c_call());
      }
    }
  }
  for (grpc_call* call : ended) {
    grpc_call_cancel_with_status(call, GRPC_STATUS_UNAUTHENTICATED, "the token was revoked or is over", nullptr);
    grpc_call_unref(call);
  }
}

bool Guard::MayAudit(const MethodRule& rule, const absl::Status& result) {
  const bool is_refusal = absl::IsUnauthenticated(result) || absl::IsPermissionDenied(result);
  if (!is_refusal) return rule.is_change;
  int64_t num_unaudited = 0;
  {
    const std::scoped_lock lock(mutex_);
    // Whoever knocks without a token must not push the changes out of a log of bounded size.
    if (!audited_refusals_.Allow(options_.clock->SteadyNow())) {
      ++num_unaudited_;
      return false;
    }
    num_unaudited = std::exchange(num_unaudited_, 0);
  }
  if (num_unaudited > 0) {
    options_.audit->Write({.time = options_.clock->Now(),
                           .method = fmt::format("{} more refused calls", num_unaudited),
                           .result = absl::ResourceExhaustedError("too many refusals to write each")});
  }
  return true;
}

void Guard::Audit(CallContext& context, const absl::Status& result) {
  if (options_.audit == nullptr || context.rule_ == nullptr || !MayAudit(*context.rule_, result)) return;
  const Caller& caller = context.caller_;
  options_.audit->Write({.time = options_.clock->Now(),
                         .who = caller.name,
                         .token_id = caller.token_id,
                         .role = caller.is_known() ? std::string(Name(caller.role)) : "",
                         .peer = context.peer(),
                         .method = std::string(context.rule_->method),
                         .request = context.request_,
                         .response = context.response_,
                         .result = result});
}

}  // namespace normlab::service
