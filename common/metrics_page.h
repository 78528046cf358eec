// What a scrape is answered with: OpenMetrics for those that ask for it, else Prometheus' older text format.
#pragma once

#include <string>
#include <vector>

#include "prometheus/metric_family.h"

namespace normlab {

struct MetricsPage {
  std::string type;  // For Content-Type.
  std::string body;
};

/// `accept` is the request's Accept header; empty if there is none. OpenMetrics is taken if it is named there (version
/// 1.0.0, 0.0.1 or any) with a q that is not below that of the text format.
MetricsPage MakeMetricsPage(const std::vector<prometheus::MetricFamily>& families, const std::string& accept);

/// OpenMetrics 1.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/): counters are named without _total in their
/// metadata, units come from names (_seconds, _bytes, _ratio, _nats), and the end is marked. prometheus-cpp keeps no
/// exemplars, so there are none.
std::string ToOpenMetrics(const std::vector<prometheus::MetricFamily>& families);

}  // namespace normlab
