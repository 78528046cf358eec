#include "coordinator/service/server.h"

#include <absl/strings/strip.h>
#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_interceptor.h>

#include <chrono>
#include <mutex>
#include <utility>

#include "common/status.h"
#include "coordinator/service/limits.h"

namespace normlab::service {
namespace {

using OnCallDone = std::function<void(const std::string&, const std::string&, absl::Duration)>;
using SteadyClock = std::chrono::steady_clock;

const char* CodeName(grpc::StatusCode code) {
  constexpr const char* kNames[] = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  return code >= 0 && code <= grpc::StatusCode::UNAUTHENTICATED ? kNames[code] : "UNKNOWN";
}

/// "/normlab.v1.RunService/GetRun" -> "RunService/GetRun".
std::string ShortMethod(const char* method) {
  absl::string_view name = method;
  absl::ConsumePrefix(&name, "/");
  absl::ConsumePrefix(&name, "normlab.v1.");
  return std::string(name);
}

class CallTimer final : public grpc::experimental::Interceptor {
 public:
  CallTimer(const OnCallDone& done, const char* method) : done_(done), method_(ShortMethod(method)) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      done_(method_, CodeName(methods->GetSendStatus().error_code()), absl::FromChrono(SteadyClock::now() - start_));
    }
    methods->Proceed();
  }

 private:
  const OnCallDone& done_;
  const std::string method_;
  const SteadyClock::time_point start_ = SteadyClock::now();
};

class CallTimerFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallTimerFactory(const OnCallDone& done) : done_(done) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    // A stream's length says nothing of the server.
    if (info->type() != grpc::experimental::ServerRpcInfo::Type::UNARY) return nullptr;
    return new CallTimer(done_, info->method());
  }

 private:
  const OnCallDone& done_;
};

void SetLimits(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  // gRPC shares ports by default: a second coordinator would bind in silence and get half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Clients may ping every 5 s, on idle connections too.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
}

void EnableHealthAndReflection() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

}  // namespace

Server::Server(EnginePort& engine, store::Store& store, Options options)
    : options_(std::move(options)),
      guard_(options_.guard),
      sessions_(engine),
      watches_(engine),
      logs_(engine, store),
      experiment_service_(engine),
      run_service_(engine, store, watches_, logs_),
      worker_service_(engine, sessions_),
      admin_service_(engine, guard_, options_.guard.tokens, options_.http_address),
      backup_service_(store, options_.backups, options_.guard.clock) {}

Server::~Server() { Shutdown(absl::ZeroDuration()); }

absl::Status Server::Protect() {
  guard_.Protect(experiment_service_, "ExperimentService/CreateExperiment", &ExperimentService::CreateExperiment);
  guard_.Protect(experiment_service_, "ExperimentService/GetExperiment", &ExperimentService::GetExperiment);
  guard_.Protect(experiment_service_, "ExperimentService/ListExperiments", &ExperimentService::ListExperiments);
  guard_.Protect(run_service_, "RunService/GetRun", &RunService::GetRun);
  guard_.Protect(run_service_, "RunService/ListRuns", &RunService::ListRuns);
  guard_.Protect(run_service_, "RunService/WatchRuns", &RunService::WatchRuns);
  guard_.Protect(run_service_, "RunService/CancelRuns", &RunService::CancelRuns);
  guard_.Protect(run_service_, "RunService/RequeueRuns", &RunService::RequeueRuns);
  guard_.Protect(run_service_, "RunService/UpdateRuns", &RunService::UpdateRuns);
  guard_.Protect(run_service_, "RunService/ListQueue", &RunService::ListQueue);
  guard_.Protect(run_service_, "RunService/ListEvents", &RunService::ListEvents);
  guard_.Protect(run_service_, "RunService/StreamLogs", &RunService::StreamLogs);
  guard_.Protect(run_service_, "RunService/GetMetrics", &RunService::GetMetrics);
  guard_.Protect(run_service_, "RunService/GetHistorySummary", &RunService::GetHistorySummary);
  guard_.Protect(run_service_, "RunService/RecordAnalysis", &RunService::RecordAnalysis);
  guard_.Protect(worker_service_, "WorkerService/Session", &WorkerService::Session);
  guard_.Protect(worker_service_, "WorkerService/ListWorkers", &WorkerService::ListWorkers);
  guard_.Protect(admin_service_, "AdminService/GetInfo", &AdminService::GetInfo);
  guard_.Protect(admin_service_, "AdminService/WhoAmI", &AdminService::WhoAmI);
  guard_.Protect(admin_service_, "AdminService/SetWorkerCordon", &AdminService::SetWorkerCordon);
  guard_.Protect(admin_service_, "AdminService/CreateToken", &AdminService::CreateToken);
  guard_.Protect(admin_service_, "AdminService/ListTokens", &AdminService::ListTokens);
  guard_.Protect(admin_service_, "AdminService/RevokeToken", &AdminService::RevokeToken);
  guard_.Protect(backup_service_, "BackupService/CreateBackup", &BackupService::CreateBackup);
  guard_.Protect(backup_service_, "BackupService/ListBackups", &BackupService::ListBackups);
  guard_.Protect(backup_service_, "BackupService/VerifyBackup", &BackupService::VerifyBackup);
  return guard_.CheckComplete();
}

absl::Status Server::Listen() {
  NORMLAB_RETURN_IF_ERROR(Protect());
  EnableHealthAndReflection();
  grpc::ServerBuilder builder;
  SetLimits(builder);
  builder.SetContextAllocator(guard_.MakeContextAllocator());
  int port = 0;
  builder.AddListeningPort(options_.address.ToString(),
                           options_.credentials ? options_.credentials : grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&experiment_service_);
  builder.RegisterService(&run_service_);
  builder.RegisterService(&worker_service_);
  builder.RegisterService(&admin_service_);
  builder.RegisterService(&backup_service_);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  if (options_.on_call_done) interceptors.push_back(std::make_unique<CallTimerFactory>(options_.on_call_done));
  if (options_.guard.audit != nullptr) interceptors.push_back(guard_.MakeInterceptors());
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    NORMLAB_RETURN_IF_ERROR(ProbeListen(options_.address));
    return absl::UnavailableError(fmt::format("cannot listen on {}", options_.address.ToString()));
  }
  options_.address.port = port;
  return absl::OkStatus();
}

void Server::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return;
  const absl::Status end = absl::UnavailableError("the coordinator is ending");
  sessions_.EndAll(end);
  watches_.EndAll(end);
  logs_.EndAll(end);
  backup_service_.EndAll(end);
  server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
  server_->Wait();
  server_.reset();
}

}  // namespace normlab::service
