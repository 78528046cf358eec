#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/service/admin_service.h"
#include "coordinator/service/auth_guard.h"
#include "coordinator/service/backup_service.h"
#include "coordinator/service/engine_port.h"
#include "coordinator/service/experiment_service.h"
#include "coordinator/service/listen_address.h"
#include "coordinator/service/log_hub.h"
#include "coordinator/service/run_service.h"
#include "coordinator/service/sessions.h"
#include "coordinator/service/watch_hub.h"
#include "coordinator/service/worker_service.h"
#include "coordinator/store/store.h"

namespace normlab::service {

/// All services with health and reflection behind one port. Safe to use from any thread.
class Server {
 public:
  struct Options {
    ListenAddress address;
    std::string http_address;  // What AdminService.GetInfo says.
    /// Called after each unary call, on gRPC's threads; `method` is "RunService/GetRun".
    std::function<void(const std::string& method, const std::string& code, absl::Duration took)> on_call_done;
    /// Null: plain text.
    std::shared_ptr<grpc::ServerCredentials> credentials;
    Guard::Options guard;
    store::Backups* backups = nullptr;  // Null: none can be made. Must outlive the server.
  };

  /// `engine` and `store` must outlive the server. Nothing is served before Listen.
  Server(EnginePort& engine, store::Store& store, Options options);
  ~Server();

  /// Those that have to hear of every tick.
  std::vector<TickListener*> listeners() { return {&sessions_, &watches_, &logs_, &guard_}; }

  /// UNAVAILABLE if the port cannot be had, saying why; INTERNAL if a method of the contract has no rule.
  absl::Status Listen();

  /// "127.0.0.1:7070", with the real port. After Listen.
  std::string address() const { return options_.address.ToString(); }
  /// A channel inside the process, for tests. After Listen.
  std::shared_ptr<grpc::Channel> InProcessChannel() { return server_->InProcessChannel({}); }

  /// Ends streams with UNAVAILABLE, lets calls that have begun end for `grace`, then cuts them off.
  void Shutdown(absl::Duration grace);

  int num_watchers() const { return watches_.num_watchers(); }
  int64_t watch_lag() const { return watches_.lag(); }
  int64_t num_watch_resyncs() const { return watches_.num_resyncs(); }
  int num_log_streams() const { return logs_.num_followers(); }
  int num_sessions() const { return sessions_.num_sessions(); }

 private:
  absl::Status Protect();

  Options options_;
  Guard guard_;
  Sessions sessions_;
  WatchHub watches_;
  LogHub logs_;
  ExperimentService experiment_service_;
  RunService run_service_;
  WorkerService worker_service_;
  AdminService admin_service_;
  BackupService backup_service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace normlab::service
