#include "coordinator/metrics/metrics.h"

#include <prometheus/text_serializer.h>

#include <utility>
#include <vector>

#include "common/version.h"

namespace normlab {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets& Seconds() {
  static const Buckets kSeconds = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                   0.05,   0.1,     0.25,   0.5,   1,      2.5,   5,    10};
  return kSeconds;
}

const Buckets& Counts() {
  static const Buckets kCounts = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10'000};
  return kCounts;
}

Metrics::Gauges& GaugeFamily(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

Metrics::Counters& CounterFamily(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

Metrics::Histograms& HistogramFamily(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

}  // namespace

Metrics::Metrics()
    : runs(GaugeFamily(*registry, "normlab_runs", "Runs by state.")),
      queue_age_seconds(GaugeFamily(*registry, "normlab_queue_age_seconds",
                                    "How long the run that waits longest has been queued; 0 if none waits.")
                            .Add({})),
      scheduling_seconds(HistogramFamily(*registry, "normlab_scheduling_pass_seconds", "Time of one scheduling pass.")
                             .Add({}, Seconds())),
      commit_seconds(
          HistogramFamily(*registry, "normlab_commit_seconds", "Time of one synced batch.").Add({}, Seconds())),
      commit_records(
          HistogramFamily(*registry, "normlab_commit_records", "Records in one synced batch.").Add({}, Counts())),
      tick_commands(HistogramFamily(*registry, "normlab_tick_commands", "Commands and reads that one tick served.")
                        .Add({}, Counts())),
      rpc_seconds(HistogramFamily(*registry, "normlab_rpc_seconds", "Time of unary calls by method and status code.")),
      workers(GaugeFamily(*registry, "normlab_workers", "Workers by state.")),
      leases_lost(CounterFamily(*registry, "normlab_leases_lost_total", "Leases of workers that ran out.").Add({})),
      attempts(CounterFamily(*registry, "normlab_attempts_total", "Attempts that ended, by outcome.")),
      expired(CounterFamily(*registry, "normlab_expired_runs_total",
                            "Ended runs of which retention removed a part: logs, history or events.")),
      watchers(GaugeFamily(*registry, "normlab_watchers", "Open watches of runs.").Add({})),
      sessions(GaugeFamily(*registry, "normlab_worker_sessions", "Open sessions of workers.").Add({})) {
  GaugeFamily(*registry, "normlab_build_info", "Always 1; the labels say which build runs.")
      .Add({{"program", "coordinator"}, {"version", kVersion}})
      .Set(1);
}

void Metrics::ObserveCall(const std::string& method, const std::string& code, double seconds) {
  rpc_seconds.Add({{"method", method}, {"code", code}}, Seconds()).Observe(seconds);
}

std::string Metrics::ToText() const {
  std::vector<prometheus::MetricFamily> families = registry->Collect();
  if (disks) {
    for (prometheus::MetricFamily& family : disks->Collect()) families.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace normlab
