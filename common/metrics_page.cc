#include "common/metrics_page.h"

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_split.h>
#include <fmt/format.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace normlab {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr char kOpenMetricsType[] = "application/openmetrics-text; version=1.0.0; charset=utf-8";
constexpr char kTextType[] = "text/plain; version=0.0.4; charset=utf-8";
constexpr std::string_view kTotal = "_total";
constexpr std::array<std::string_view, 4> kUnits = {"seconds", "bytes", "ratio", "nats"};

/// One entry of an Accept header.
struct MediaRange {
  std::string type;
  std::string version;
  double q = 1;
};

std::vector<MediaRange> ParseAccept(const std::string& accept) {
  std::vector<MediaRange> ranges;
  for (const absl::string_view entry : absl::StrSplit(accept, ',')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(entry, ';');
    MediaRange range{.type = absl::AsciiStrToLower(absl::StripAsciiWhitespace(parts[0]))};
    for (size_t i = 1; i < parts.size(); ++i) {
      const std::pair<absl::string_view, absl::string_view> parameter =
          absl::StrSplit(parts[i], absl::MaxSplits('=', 1));
      const absl::string_view name = absl::StripAsciiWhitespace(parameter.first);
      const absl::string_view value = absl::StripAsciiWhitespace(parameter.second);
      if (name == "version") range.version = std::string(value);
      if (name == "q" && !absl::SimpleAtod(value, &range.q)) range.q = 0;
    }
    ranges.push_back(std::move(range));
  }
  return ranges;
}

bool WantsOpenMetrics(const std::string& accept) {
  double open_metrics = 0, text = 0;
  for (const MediaRange& range : ParseAccept(accept)) {
    const bool is_known = range.version.empty() || range.version == "1.0.0" || range.version == "0.0.1";
    if (range.type == "application/openmetrics-text" && is_known) open_metrics = std::max(open_metrics, range.q);
    if (range.type == "text/plain") text = std::max(text, range.q);
  }
  return open_metrics > 0 && open_metrics >= text;
}

std::string Escaped(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\\' || c == '"') escaped += '\\';
    escaped += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return escaped;
}

/// A number as the format wants it; `is_float`: with a point also where it is whole ("1.0"), as bounds of buckets are.
std::string NumberText(double value, bool is_float = false) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  std::string text = fmt::format("{}", value);  // The shortest that reads back as the same number.
  if (!is_float && absl::EndsWith(text, ".0")) text.resize(text.size() - 2);
  if (is_float && text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

class Writer {
 public:
  void Write(const MetricFamily& family) {
    std::string name = family.name;
    if (family.type == MetricType::Counter && absl::EndsWith(name, {kTotal.data(), kTotal.size()})) {
      name.resize(name.size() - kTotal.size());
    }
    text_ += fmt::format("# TYPE {} {}\n", name, TypeName(family.type));
    for (const std::string_view unit : kUnits) {
      if (absl::EndsWith(name, fmt::format("_{}", unit))) text_ += fmt::format("# UNIT {} {}\n", name, unit);
    }
    text_ += fmt::format("# HELP {} {}\n", name, Escaped(family.help));
    for (const ClientMetric& metric : family.metric) WriteMetric(name, family.type, metric);
  }

  std::string Finish() { return std::move(text_) + "# EOF\n"; }

 private:
  static const char* TypeName(MetricType type) {
    switch (type) {
      case MetricType::Counter:
        return "counter";
      case MetricType::Gauge:
        return "gauge";
      case MetricType::Histogram:
        return "histogram";
      case MetricType::Summary:
        return "summary";
      default:
        return "unknown";
    }
  }

  void WriteMetric(const std::string& name, MetricType type, const ClientMetric& metric) {
    switch (type) {
      case MetricType::Counter:
        return Sample(name + std::string(kTotal), metric, NumberText(metric.counter.value));
      case MetricType::Gauge:
        return Sample(name, metric, NumberText(metric.gauge.value));
      case MetricType::Histogram:
        for (const ClientMetric::Bucket& bucket : metric.histogram.bucket) {
          Sample(name + "_bucket", metric, fmt::format("{}", bucket.cumulative_count), "le",
                 NumberText(bucket.upper_bound, /*is_float=*/true));
        }
        Sample(name + "_count", metric, fmt::format("{}", metric.histogram.sample_count));
        return Sample(name + "_sum", metric, NumberText(metric.histogram.sample_sum));
      case MetricType::Summary:
        for (const ClientMetric::Quantile& quantile : metric.summary.quantile) {
          Sample(name, metric, NumberText(quantile.value), "quantile",
                 NumberText(quantile.quantile, /*is_float=*/true));
        }
        Sample(name + "_count", metric, fmt::format("{}", metric.summary.sample_count));
        return Sample(name + "_sum", metric, NumberText(metric.summary.sample_sum));
      default:
        return Sample(name, metric, NumberText(metric.untyped.value));
    }
  }

  void Sample(const std::string& name, const ClientMetric& metric, const std::string& value,
              const std::string& extra_label = "", const std::string& extra_value = "") {
    std::string labels;
    for (const ClientMetric::Label& label : metric.label) {
      labels += fmt::format("{}{}=\"{}\"", labels.empty() ? "" : ",", label.name, Escaped(label.value));
    }
    if (!extra_label.empty()) {
      labels += fmt::format("{}{}=\"{}\"", labels.empty() ? "" : ",", extra_label, extra_value);
    }
    text_ += name;
    if (!labels.empty()) text_ += "{" + labels + "}";
    text_ += " " + value + "\n";
  }

  std::string text_;
};

}  // namespace

std::string ToOpenMetrics(const std::vector<MetricFamily>& families) {
  Writer writer;
  for (const MetricFamily& family : families) {
    if (!family.metric.empty()) writer.Write(family);
  }
  return writer.Finish();
}

MetricsPage MakeMetricsPage(const std::vector<MetricFamily>& families, const std::string& accept) {
  if (WantsOpenMetrics(accept)) return {.type = kOpenMetricsType, .body = ToOpenMetrics(families)};
  return {.type = kTextType, .body = prometheus::TextSerializer().Serialize(families)};
}

}  // namespace normlab
