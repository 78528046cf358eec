#include "common/metrics_server.h"

#include <CivetServer.h>
#include <fmt/format.h>

#include <utility>

#include "common/http_page.h"
#include "common/metrics_page.h"

namespace normlab {

class MetricsServer::Handler final : public CivetHandler {
 public:
  explicit Handler(std::vector<std::shared_ptr<prometheus::Collectable>> sources) : sources_(std::move(sources)) {}

  bool handleGet(CivetServer* /*server*/, mg_connection* connection) override {
    std::vector<prometheus::MetricFamily> families;
    for (const auto& source : sources_) {
      for (prometheus::MetricFamily& family : source->Collect()) families.push_back(std::move(family));
    }
    MetricsPage page = MakeMetricsPage(families, AcceptOf(connection));
    WriteHttpPage(connection, {.type = std::move(page.type), .body = std::move(page.body)});
    return true;
  }

 private:
  const std::vector<std::shared_ptr<prometheus::Collectable>> sources_;
};

MetricsServer::MetricsServer(std::vector<std::shared_ptr<prometheus::Collectable>> sources)
    : handler_(std::make_unique<Handler>(std::move(sources))) {}

MetricsServer::~MetricsServer() = default;

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& address, std::vector<std::shared_ptr<prometheus::Collectable>> sources) {
  std::unique_ptr<MetricsServer> metrics(new MetricsServer(std::move(sources)));
  const std::vector<std::string> options = {"listening_ports",    address, "num_threads", "2",
                                            "request_timeout_ms", "10000"};
  try {
    metrics->server_ = std::make_unique<CivetServer>(options);
  } catch (const CivetException& error) {
    return absl::UnavailableError(fmt::format("cannot serve HTTP on {}: {}", address, error.what()));
  }
  metrics->server_->addHandler("/metrics$", *metrics->handler_);
  return metrics;
}

int MetricsServer::port() const { return server_->getListeningPorts().at(0); }

}  // namespace normlab
