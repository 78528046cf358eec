#include "coordinator/metrics/metrics.h"

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

/// A number that RocksDB keeps, read at each scrape.
struct StoreFamily {
  const char* name;
  const char* help;
  prometheus::MetricType type;
  double (*read)(const store::Statistics& store);
};

constexpr auto kGauge = prometheus::MetricType::Gauge;
constexpr auto kCounter = prometheus::MetricType::Counter;
#define NORMLAB_READ(field) [](const store::Statistics& s) { return static_cast<double>(s.field); }
constexpr StoreFamily kStoreFamilies[] = {
    {"normlab_store_memtable_bytes", "Memory of RocksDB's memtables.", kGauge, NORMLAB_READ(memtable_bytes)},
    {"normlab_store_sst_bytes", "Size of RocksDB's table files.", kGauge, NORMLAB_READ(sst_bytes)},
    {"normlab_store_wal_bytes", "Size of RocksDB's write-ahead logs.", kGauge, NORMLAB_READ(wal_bytes)},
    {"normlab_store_block_cache_bytes", "Memory of RocksDB's block cache.", kGauge, NORMLAB_READ(block_cache_bytes)},
    {"normlab_store_pending_compaction_bytes", "Bytes that RocksDB's compactions have still to rewrite, estimated.",
     kGauge, NORMLAB_READ(pending_compaction_bytes)},
    {"normlab_store_running_compactions", "RocksDB's compactions that run now.", kGauge,
     NORMLAB_READ(running_compactions)},
    {"normlab_store_running_flushes", "RocksDB's flushes that run now.", kGauge, NORMLAB_READ(running_flushes)},
    {"normlab_store_write_stopped", "1 while RocksDB lets no write through, else 0.", kGauge,
     NORMLAB_READ(is_write_stopped)},
    {"normlab_store_delayed_write_bytes_per_second", "Rate to which RocksDB slows writes; 0: not slowed.", kGauge,
     NORMLAB_READ(delayed_bytes_per_second)},
    {"normlab_store_background_errors_total", "Errors of RocksDB's flushes and compactions.", kCounter,
     NORMLAB_READ(background_errors)},
    {"normlab_store_wal_written_bytes_total", "Bytes written to RocksDB's write-ahead logs.", kCounter,
     NORMLAB_READ(wal_bytes_written)},
    {"normlab_store_write_stall_seconds_total", "Time for which RocksDB held writes up.", kCounter,
     NORMLAB_READ(write_stall_seconds)},
};
#undef NORMLAB_READ

prometheus::MetricFamily Sample(const StoreFamily& family, const store::Statistics& store) {
  prometheus::ClientMetric metric;
  (family.type == kCounter ? metric.counter.value : metric.gauge.value) = family.read(store);
  return {family.name, family.help, family.type, {metric}};
}

}  // namespace

Metrics::Metrics()
    : runs(GaugeFamily(*registry, "normlab_runs", "Runs by state.")),
      queued_runs(GaugeFamily(*registry, "normlab_queued_runs",
                              "Runs that wait, by reason: held, backoff, no_worker, too_few_workers, quota, "
                              "workers_busy.")),
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
      watch_lag(GaugeFamily(*registry, "normlab_watch_lag_revisions",
                            "Revisions that the slowest watch of runs has still to be sent; 0 if all have seen all.")
                    .Add({})),
      watch_resyncs(CounterFamily(*registry, "normlab_watch_resyncs_total",
                                  "Watches that were ended because they were too slow or asked for changes that are "
                                  "not kept any more.")
                        .Add({})),
      log_streams(
          GaugeFamily(*registry, "normlab_log_streams", "Open streams of log lines that follow a run.").Add({})),
      sessions(GaugeFamily(*registry, "normlab_worker_sessions", "Open sessions of workers.").Add({})) {
  GaugeFamily(*registry, "normlab_build_info", "Always 1; the labels say which build runs.")
      .Add({{"program", "coordinator"}, {"version", kVersion}})
      .Set(1);
}

void Metrics::ObserveCall(const std::string& method, const std::string& code, double seconds) {
  rpc_seconds.Add({{"method", method}, {"code", code}}, Seconds()).Observe(seconds);
}

std::vector<prometheus::MetricFamily> Metrics::Collect(const std::optional<store::Statistics>& store) const {
  std::vector<prometheus::MetricFamily> families = registry->Collect();
  if (disks) {
    for (prometheus::MetricFamily& family : disks->Collect()) families.push_back(std::move(family));
  }
  if (store) {
    for (const StoreFamily& family : kStoreFamilies) families.push_back(Sample(family, *store));
  }
  return families;
}

}  // namespace normlab
