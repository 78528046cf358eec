#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <absl/time/time.h>
#include <google/protobuf/message.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>
#include <grpcpp/support/server_interceptor.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "common/clock.h"
#include "common/grpc_status.h"
#include "common/rate_limit.h"
#include "coordinator/service/auth_audit.h"
#include "coordinator/service/auth_rules.h"
#include "coordinator/service/auth_tokens.h"
#include "coordinator/service/engine_port.h"

namespace normlab::service {

class Guard;

/// What is known of a call besides its request. Every call of our services has one.
class CallContext final : public grpc::CallbackServerContext {
 public:
  /// Of the context that a service method is given.
  static CallContext& Of(grpc::CallbackServerContext& context) { return static_cast<CallContext&>(context); }

  /// Who calls, once the call was admitted.
  const Caller& caller() const { return caller_; }

 private:
  friend class Guard;

  Caller caller_;
  const MethodRule* rule_ = nullptr;
  std::string stream_key_;                               // Set while it counts as a stream.
  const google::protobuf::Message* request_ = nullptr;   // Of a unary call.
  const google::protobuf::Message* response_ = nullptr;  // Of a unary call.
};

/// Stands before the services: who calls, may he, how often, and what came of it. Any thread.
class Guard final : public TickListener {
 public:
  /// All that is pointed to must outlive the guard.
  struct Options {
    const Clock* clock = nullptr;           // Needed by everything below.
    TokenStore* tokens = nullptr;           // Null: every caller may do everything, under the name that he gives.
    AuditLog* audit = nullptr;              // Null: no audit log.
    double requests_per_second = 0;         // Of one token; 0: any number.
    bool workers_need_certificate = false;  // A session needs a certificate that TLS has verified.
  };

  explicit Guard(const Options& options);

  /// Puts the guard before a method of `service`; once for each of its methods.
  template <typename Service, typename Request, typename Response>
  void Protect(Service& service, const std::string& method,
               grpc::ServerUnaryReactor* (Service::*call)(grpc::CallbackServerContext*, const Request*, Response*));
  template <typename Service, typename Request, typename Response>
  void Protect(Service& service, const std::string& method,
               grpc::ServerWriteReactor<Response>* (Service::*call)(grpc::CallbackServerContext*, const Request*));
  template <typename Service, typename Request, typename Response>
  void Protect(Service& service, const std::string& method,
               grpc::ServerBidiReactor<Request, Response>* (Service::*call)(grpc::CallbackServerContext*));

  /// INTERNAL, naming them, if methods of the contract's services have no rule or were not protected.
  absl::Status CheckComplete() const;

  /// For ServerBuilder: makes CallContexts.
  std::unique_ptr<grpc::ContextAllocator> MakeContextAllocator();
  /// For ServerBuilder: writes the audit log when a call's status goes out.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeInterceptors();

  /// Ends streams whose token was revoked or is over; looks at most once in a second.
  void OnTick(const View& view, const engine::Changes& changes) override;
  void EndRevokedStreams();

 private:
  class Allocator;
  class Interceptor;
  class InterceptorFactory;

  /// The rule of `method`, marked as protected. A method without one is refused to everybody.
  const MethodRule* Take(const std::string& method);
  absl::Status Admit(const MethodRule* rule, bool is_stream, CallContext& context);
  absl::Status Authorize(const MethodRule& rule, CallContext& context);
  absl::Status TakeRate(const Caller& caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CountStream(const MethodRule& rule, CallContext& context) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(CallContext& context);
  void Audit(CallContext& context, const absl::Status& result);
  bool MayAudit(const MethodRule& rule, const absl::Status& result);

  const Options options_;
  std::set<std::string> protected_;  // Before serving only.
  std::mutex mutex_;
  std::map<std::string, RateLimit> rates_ ABSL_GUARDED_BY(mutex_);                 // By token.
  std::map<std::string, std::set<CallContext*>> streams_ ABSL_GUARDED_BY(mutex_);  // By client; sessions.
  RateLimit audited_refusals_ ABSL_GUARDED_BY(mutex_);
  int64_t num_unaudited_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time looked_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // Steady time.
};

namespace auth_internal {

/// Replaces what gRPC calls for a method. The generated classes do the same for themselves.
void SetHandler(grpc::Service& service, const std::string& method, grpc::internal::MethodHandler* handler);

/// A stream that is refused before it begins.
template <typename Reactor>
class Refused final : public Reactor {
 public:
  explicit Refused(const absl::Status& status) { this->Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace auth_internal

template <typename Service, typename Request, typename Response>
void Guard::Protect(Service& service, const std::string& method,
                    grpc::ServerUnaryReactor* (Service::*call)(grpc::CallbackServerContext*, const Request*,
                                                               Response*)) {
  const auto guarded = [this, &service, call, rule = Take(method)](grpc::CallbackServerContext* context,
                                                                   const Request* request, Response* response) {
    CallContext& known = CallContext::Of(*context);
    known.request_ = request;
    known.response_ = response;
    const absl::Status admitted = Admit(rule, /*is_stream=*/false, known);
    if (admitted.ok()) return (service.*call)(context, request, response);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(admitted));
    return reactor;
  };
  auth_internal::SetHandler(service, method, new grpc::internal::CallbackUnaryHandler<Request, Response>(guarded));
}

template <typename Service, typename Request, typename Response>
void Guard::Protect(Service& service, const std::string& method,
                    grpc::ServerWriteReactor<Response>* (Service::*call)(grpc::CallbackServerContext*,
                                                                         const Request*)) {
  using Reactor = grpc::ServerWriteReactor<Response>;
  const auto guarded = [this, &service, call, rule = Take(method)](grpc::CallbackServerContext* context,
                                                                   const Request* request) -> Reactor* {
    const absl::Status admitted = Admit(rule, /*is_stream=*/true, CallContext::Of(*context));
    if (!admitted.ok()) return new auth_internal::Refused<Reactor>(admitted);
    return (service.*call)(context, request);
  };
  auth_internal::SetHandler(service, method,
                            new grpc::internal::CallbackServerStreamingHandler<Request, Response>(guarded));
}

template <typename Service, typename Request, typename Response>
void Guard::Protect(Service& service, const std::string& method,
                    grpc::ServerBidiReactor<Request, Response>* (Service::*call)(grpc::CallbackServerContext*)) {
  using Reactor = grpc::ServerBidiReactor<Request, Response>;
  const auto guarded = [this, &service, call, rule = Take(method)](grpc::CallbackServerContext* context) -> Reactor* {
    const absl::Status admitted = Admit(rule, /*is_stream=*/true, CallContext::Of(*context));
    if (!admitted.ok()) return new auth_internal::Refused<Reactor>(admitted);
    return (service.*call)(context);
  };
  auth_internal::SetHandler(service, method, new grpc::internal::CallbackBidiHandler<Request, Response>(guarded));
}

}  // namespace normlab::service
