#pragma once

#include <absl/status/statusor.h>

#include <functional>
#include <memory>
#include <string>

#include "coordinator/metrics/metrics.h"
#include "coordinator/service/engine_port.h"
#include "coordinator/service/listen_address.h"
#include "coordinator/store/store.h"

class CivetServer;

namespace normlab {

/// GET /metrics for Prometheus (OpenMetrics for those that ask for it), GET /sd for its HTTP service discovery (one
/// target group per live worker), GET /healthz. Each answers 503 if the engine does not answer within 5 seconds.
class HttpServer {
 public:
  struct StreamCounts {
    int watchers = 0;
    int64_t watch_lag = 0;      // Of the slowest watcher, in revisions.
    int64_t watch_resyncs = 0;  // Since the start.
    int log_streams = 0;
    int sessions = 0;
  };

  /// What is shown; all of it must outlive the server.
  struct Sources {
    service::EnginePort& engine;
    Metrics& metrics;
    store::Store& store;
    engine::Policy policy;
    std::function<StreamCounts()> count_streams;  // Called on the engine's thread.
  };

  /// Serves until it is destroyed. UNAVAILABLE if the port cannot be had, saying why.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const service::ListenAddress& address, Sources sources);
  ~HttpServer();

  /// "127.0.0.1:7071", with the real port.
  const std::string& address() const { return address_; }

 private:
  HttpServer();

  std::string address_;
  struct Handlers;
  std::unique_ptr<Handlers> handlers_;
  std::unique_ptr<CivetServer> server_;  // Before the handlers it stops calling.
};

}  // namespace normlab
