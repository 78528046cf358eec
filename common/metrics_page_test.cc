#include "common/metrics_page.h"

#include <gmock/gmock.h>

#include <limits>

namespace normlab {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using ::testing::HasSubstr;
using ::testing::StartsWith;

MetricFamily GaugeOf(const std::string& name, double value) {
  ClientMetric metric;
  metric.gauge.value = value;
  return {name, "Help.", MetricType::Gauge, {metric}};
}

TEST(OpenMetricsTest, ACounterIsNamedWithoutTotalAndItsSampleWithIt) {
  ClientMetric metric;
  metric.label = {{"outcome", "lost \"w\"\\\n"}};
  metric.counter.value = 3;
  EXPECT_EQ(ToOpenMetrics({{"normlab_attempts_total", "Attempts.\nTwo lines.", MetricType::Counter, {metric}}}),
            "# TYPE normlab_attempts counter\n"
            "# HELP normlab_attempts Attempts.\\nTwo lines.\n"
            "normlab_attempts_total{outcome=\"lost \\\"w\\\"\\\\\\n\"} 3\n"
            "# EOF\n");
}

TEST(OpenMetricsTest, AHistogramHasBoundsWithAPointAndTheUnitOfItsName) {
  ClientMetric metric;
  metric.histogram = {.sample_count = 3,
                      .sample_sum = 1.25,
                      .bucket = {{1, 0.5}, {2, 1}, {3, std::numeric_limits<double>::infinity()}}};
  EXPECT_EQ(ToOpenMetrics({{"normlab_commit_seconds", "Time.", MetricType::Histogram, {metric}}}),
            "# TYPE normlab_commit_seconds histogram\n"
            "# UNIT normlab_commit_seconds seconds\n"
            "# HELP normlab_commit_seconds Time.\n"
            "normlab_commit_seconds_bucket{le=\"0.5\"} 1\n"
            "normlab_commit_seconds_bucket{le=\"1.0\"} 2\n"
            "normlab_commit_seconds_bucket{le=\"+Inf\"} 3\n"
            "normlab_commit_seconds_count 3\n"
            "normlab_commit_seconds_sum 1.25\n"
            "# EOF\n");
}

TEST(OpenMetricsTest, NumbersReadBackAsTheyAre) {
  for (const auto& [value, text] : {std::pair(0.1, "g 0.1\n"), std::pair(1e300, "g 1e+300\n"), std::pair(7.0, "g 7\n"),
                                    std::pair(std::numeric_limits<double>::quiet_NaN(), "g NaN\n"),
                                    std::pair(-std::numeric_limits<double>::infinity(), "g -Inf\n")}) {
    EXPECT_THAT(ToOpenMetrics({GaugeOf("g", value)}), HasSubstr(text));
  }
}

TEST(OpenMetricsTest, FamiliesWithoutAMetricAreLeftOutAndTheEndIsMarked) {
  EXPECT_EQ(ToOpenMetrics({{"g", "Help.", MetricType::Gauge, {}}}), "# EOF\n");
}

TEST(MetricsPageTest, GivesOpenMetricsToThoseThatPreferIt) {
  for (const char* accept :
       {"application/openmetrics-text",
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "text/plain;q=0.5, Application/OpenMetrics-Text; version=1.0.0; q=0.9"}) {
    EXPECT_THAT(MakeMetricsPage({GaugeOf("g", 1)}, accept).type, StartsWith("application/openmetrics-text")) << accept;
  }
}

TEST(MetricsPageTest, GivesTextToAllOthers) {
  for (const char* accept : {"", "*/*", "text/html,*/*;q=0.8", "text/plain", "application/openmetrics-text;q=0",
                             "application/openmetrics-text;version=9.0.0", "application/openmetrics-text;q=x",
                             "text/plain;q=0.9,application/openmetrics-text;q=0.2", ";;,=,;q"}) {
    const MetricsPage page = MakeMetricsPage({GaugeOf("g", 1)}, accept);
    EXPECT_THAT(page.type, StartsWith("text/plain; version=0.0.4")) << accept;
    EXPECT_THAT(page.body, HasSubstr("# TYPE g gauge\n")) << accept;
  }
}

}  // namespace
}  // namespace normlab
