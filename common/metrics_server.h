// Serves metrics over HTTP. prometheus-cpp's own server knows the older text format only.
#pragma once

#include <absl/status/statusor.h>

#include <memory>
#include <string>
#include <vector>

#include "prometheus/collectable.h"

class CivetServer;

namespace normlab {

/// GET /metrics, until it is destroyed. Safe to use from any thread.
class MetricsServer {
 public:
  /// `address`: "HOST:PORT" with a numeric host; port 0 takes a free one. UNAVAILABLE if it cannot listen there.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(
      const std::string& address, std::vector<std::shared_ptr<prometheus::Collectable>> sources);
  ~MetricsServer();

  int port() const;

 private:
  class Handler;
  explicit MetricsServer(std::vector<std::shared_ptr<prometheus::Collectable>> sources);

  std::unique_ptr<Handler> handler_;
  std::unique_ptr<CivetServer> server_;  // Ends before the handler that it calls.
};

}  // namespace normlab
