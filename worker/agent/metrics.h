// Every metric of the worker itself, with its help text; run_metrics.h has those of its runs.
#pragma once

#include <string>

#include "normlab/v1/worker.pb.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/registry.h"
#include "worker/agent/run_metrics.h"

namespace normlab::agent {

/// One thread changes values; scrapes come from any thread.
class Metrics {
 public:
  explicit Metrics(prometheus::Registry& registry);

  void SetInfo(const std::string& worker, const v1::WorkerInfo& info);
  /// `reason`: see ExitReason.
  void CountExit(const std::string& reason);

  prometheus::Gauge& connected;
  prometheus::Gauge& lease_remaining_seconds;
  prometheus::Gauge& reports_pending;
  prometheus::Counter& reports_dropped_total;
  prometheus::Counter& trainer_starts_total;
  RunFamilies runs;

 private:
  prometheus::Family<prometheus::Gauge>& info_;
  prometheus::Family<prometheus::Counter>& exits_;
};

}  // namespace normlab::agent
