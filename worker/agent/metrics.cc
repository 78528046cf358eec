#include "worker/agent/metrics.h"

namespace normlab::agent {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Registry;

Family<Gauge>& Gauges(Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

Family<Counter>& Counters(Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

}  // namespace

Metrics::Metrics(Registry& registry)
    : connected(
          Gauges(registry, "normlab_worker_connected", "1 while the coordinator has welcomed the session, else 0.")
              .Add({})),
      lease_remaining_seconds(Gauges(registry, "normlab_worker_lease_remaining_seconds",
                                     "Time for which the worker may train without hearing from the coordinator.")
                                  .Add({})),
      reports_pending(Gauges(registry, "normlab_worker_reports_pending",
                             "Reports that the coordinator has not acknowledged as durable.")
                          .Add({})),
      reports_dropped_total(Counters(registry, "normlab_worker_reports_dropped_total",
                                     "Step, layer and log reports dropped because too many waited.")
                                .Add({})),
      trainer_starts_total(
          Counters(registry, "normlab_worker_trainer_starts_total", "Trainer processes started.").Add({})),
      runs(registry),
      info_(Gauges(registry, "normlab_worker_info", "What the worker is; always 1.")),
      exits_(Counters(registry, "normlab_worker_trainer_exits_total",
                      "Ended attempts by reason: finished, stopped, failed, killed, crashed, not_started.")) {}

void Metrics::SetInfo(const std::string& worker, const v1::WorkerInfo& info) {
  info_.Add({{"worker", worker}, {"host", info.host()}, {"device", info.device()}, {"version", info.build()}}).Set(1);
}

void Metrics::CountExit(const std::string& reason) { exits_.Add({{"reason", reason}}).Increment(); }

}  // namespace normlab::agent
