#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/disk_metrics.h"
#include "coordinator/store/statistics.h"

namespace normlab {

/// Every metric of the coordinator. Safe to use from any thread.
struct Metrics {
  using Gauges = prometheus::Family<prometheus::Gauge>;
  using Counters = prometheus::Family<prometheus::Counter>;
  using Histograms = prometheus::Family<prometheus::Histogram>;

  Metrics();

  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();

  Gauges& runs;                               // normlab_runs{state}
  Gauges& queued_runs;                        // {reason}
  prometheus::Gauge& queue_age_seconds;       // Of the run that waits longest; 0 if none does.
  prometheus::Histogram& scheduling_seconds;  // One pass.
  prometheus::Histogram& commit_seconds;      // One synced batch.
  prometheus::Histogram& commit_records;      // Records in it.
  prometheus::Histogram& tick_commands;       // Commands that one tick applied.
  Histograms& rpc_seconds;                    // {method, code}; unary calls.
  Gauges& workers;                            // {state}
  prometheus::Counter& leases_lost;
  Counters& attempts;  // {outcome}
  Counters& expired;   // {part}; of ended runs, by retention.
  prometheus::Gauge& watchers;
  prometheus::Gauge& watch_lag;  // Of the slowest watcher, in revisions.
  prometheus::Counter& watch_resyncs;
  prometheus::Gauge& log_streams;
  prometheus::Gauge& sessions;
  std::optional<DiskMetrics> disks;  // Of the data folder; set before the first scrape or never.

  void ObserveCall(const std::string& method, const std::string& code, double seconds);

  /// All families; with those of the store, if it can be measured.
  std::vector<prometheus::MetricFamily> Collect(const std::optional<store::Statistics>& store) const;
};

}  // namespace normlab
