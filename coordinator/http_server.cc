#include "coordinator/http_server.h"

#include <CivetServer.h>
#include <fmt/format.h>

#include <array>
#include <chrono>
#include <future>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/http_page.h"
#include "common/log.h"
#include "common/metrics_page.h"
#include "common/status.h"
#include "coordinator/engine/run_state.h"
#include "coordinator/scheduler/scheduler.h"

namespace normlab {
namespace {

/// How long the run that waits longest has been queued. Looks at one run per priority: the queue is ordered by
/// priority, then age.
absl::Duration QueueAge(const service::View& view) {
  absl::Duration oldest = absl::ZeroDuration();
  const auto& queue = view.state.queue;
  for (auto first = queue.begin(); first != queue.end();) {
    oldest = std::max(oldest, view.now - first->queued_at);
    first = queue.lower_bound({first->negative_priority + 1, absl::InfinitePast(), RunId{}});
  }
  return oldest;
}

const char* WorkerStateName(const engine::Worker& worker) {
  if (!worker.has_lease) return "lost";
  if (!worker.is_connected) return "unreachable";
  return worker.attempt ? "busy" : "idle";
}

void SetGauges(const service::View& view, const HttpServer::Sources& sources) {
  Metrics& metrics = sources.metrics;
  for (size_t state = 1; state < view.tally.all().size(); ++state) {
    const std::string name(engine::Name(static_cast<engine::RunState>(state)));
    metrics.runs.Add({{"state", name}}).Set(static_cast<double>(view.tally.all()[state]));
  }
  const auto waits = scheduler::CountWaits(view.state, sources.policy, view.now);
  for (int reason = 0; reason < scheduler::kNumWaitReasons; ++reason) {
    const std::string name(scheduler::Name(static_cast<scheduler::WaitReason>(reason)));
    metrics.queued_runs.Add({{"reason", name}}).Set(static_cast<double>(waits[reason]));
  }
  metrics.queue_age_seconds.Set(absl::ToDoubleSeconds(QueueAge(view)));
  std::map<std::string, int> workers = {{"idle", 0}, {"busy", 0}, {"unreachable", 0}, {"lost", 0}};
  for (const auto& [id, worker] : view.state.workers) ++workers[WorkerStateName(worker)];
  for (const auto& [state, count] : workers) metrics.workers.Add({{"state", state}}).Set(count);
  const HttpServer::StreamCounts counts = sources.count_streams();
  metrics.watchers.Set(counts.watchers);
  metrics.watch_lag.Set(static_cast<double>(counts.watch_lag));
  metrics.watch_resyncs.Increment(static_cast<double>(counts.watch_resyncs) - metrics.watch_resyncs.Value());
  metrics.log_streams.Set(counts.log_streams);
  metrics.sessions.Set(counts.sessions);
}

std::string Targets(const service::View& view) {
  nlohmann::json groups = nlohmann::json::array();
  for (const auto& [id, worker] : view.state.workers) {
    if (!worker.has_lease || worker.info.metrics_address.empty()) continue;
    groups.push_back(
        {{"targets", {worker.info.metrics_address}}, {"labels", {{"worker", id.name}, {"host", worker.info.host}}}});
  }
  // What workers say of themselves need not be UTF-8.
  return groups.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// What `make` makes of the state, or why it could not look at it. `make` runs on the engine's thread, maybe after this
/// has given up waiting.
HttpPage FromState(service::EnginePort& engine, std::function<HttpPage(const service::View& view)> make) {
  // Shared, because the answer may come after this thread has given up on it.
  auto made = std::make_shared<std::promise<HttpPage>>();
  std::future<HttpPage> page = made->get_future();
  engine.Read([made, make = std::move(make)](const absl::Status& status, const service::View* view) {
    made->set_value(status.ok() ? make(*view) : HttpPage{.code = 503, .body = std::string(status.message()) + "\n"});
  });
  if (page.wait_for(std::chrono::seconds(5)) == std::future_status::ready) return page.get();
  return {.code = 503, .body = "the engine has not answered for 5 seconds\n"};
}

/// Serves what `make` makes of the state, on one of the web server's threads.
class StateHandler final : public CivetHandler {
 public:
  using Make = std::function<HttpPage(const service::View& view)>;
  StateHandler(service::EnginePort& engine, Make make) : engine_(engine), make_(std::move(make)) {}

  bool handleGet(CivetServer* /*server*/, mg_connection* connection) override {
    WriteHttpPage(connection, FromState(engine_, make_));
    return true;
  }

 private:
  service::EnginePort& engine_;
  const Make make_;
};

/// Sets the gauges on the engine's thread; asks the store and writes the text on the web server's.
class MetricsHandler final : public CivetHandler {
 public:
  MetricsHandler(HttpServer::Sources sources) : sources_(std::move(sources)) {}

  bool handleGet(CivetServer* /*server*/, mg_connection* connection) override {
    HttpPage page = FromState(sources_.engine, [this](const service::View& view) {
      SetGauges(view, sources_);
      return HttpPage();
    });
    if (page.code == 200) {
      MetricsPage text = MakeMetricsPage(sources_.metrics.Collect(sources_.store.Measure()), AcceptOf(connection));
      page = {.type = std::move(text.type), .body = std::move(text.body)};
    }
    WriteHttpPage(connection, page);
    return true;
  }

 private:
  const HttpServer::Sources sources_;
};

}  // namespace

struct HttpServer::Handlers {
  MetricsHandler metrics;
  StateHandler targets;
  StateHandler health;
};

HttpServer::HttpServer() = default;
HttpServer::~HttpServer() = default;

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const service::ListenAddress& address, Sources sources) {
  std::unique_ptr<HttpServer> http(new HttpServer());
  service::EnginePort& engine = sources.engine;
  http->handlers_.reset(new Handlers{
      .metrics{std::move(sources)},
      .targets{engine,
               [](const service::View& view) { return HttpPage{.type = "application/json", .body = Targets(view)}; }},
      .health{engine, [](const service::View&) { return HttpPage{.body = "ok\n"}; }}});
  // civetweb says only that it failed.
  NORMLAB_RETURN_IF_ERROR(service::ProbeListen(address));
  const std::vector<std::string> options = {
      "listening_ports", address.ToString(), "num_threads", "4", "request_timeout_ms", "10000"};
  try {
    http->server_ = std::make_unique<CivetServer>(options);
  } catch (const CivetException& error) {
    return absl::UnavailableError(fmt::format("cannot serve HTTP on {}: {}", address.ToString(), error.what()));
  }
  http->server_->addHandler("/metrics$", http->handlers_->metrics);
  http->server_->addHandler("/sd$", http->handlers_->targets);
  http->server_->addHandler("/healthz$", http->handlers_->health);
  service::ListenAddress real = address;
  real.port = http->server_->getListeningPorts().at(0);
  http->address_ = real.ToString();
  return http;
}

}  // namespace normlab
