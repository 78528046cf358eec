#pragma once

#include <absl/status/statusor.h>

#include <functional>
#include <memory>
#include <string>

#include "coordinator/metrics/metrics.h"
#include "coordinator/service/engine_port.h"
#include "coordinator/service/listen_address.h"

class CivetServer;

namespace normlab {

/// GET /metrics for Prometheus, GET /sd for its HTTP service discovery (one target group per live worker), GET
/// /healthz. Each answers 503 if the engine does not answer within 5 seconds.
class HttpServer {
 public:
  struct StreamCounts {
    int watchers = 0;
    int sessions = 0;
  };

  /// Serves until it is destroyed. `engine` and `metrics` must outlive it; `count_streams` is called from any thread.
  /// UNAVAILABLE if the port cannot be had, saying why.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const service::ListenAddress& address,
                                                           service::EnginePort& engine, Metrics& metrics,
                                                           std::function<StreamCounts()> count_streams);
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
