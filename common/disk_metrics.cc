#include "common/disk_metrics.h"

#include <system_error>

namespace normlab {
namespace {

void Add(const std::string& folder, std::uintmax_t bytes, prometheus::MetricFamily* family) {
  prometheus::ClientMetric metric;
  metric.label = {{"folder", folder}};
  metric.gauge.value = static_cast<double>(bytes);
  family->metric.push_back(std::move(metric));
}

}  // namespace

std::vector<prometheus::MetricFamily> DiskMetrics::Collect() const {
  prometheus::MetricFamily free = {
      "normlab_disk_free_bytes", "Bytes that are left on the disk under a folder.", prometheus::MetricType::Gauge, {}};
  prometheus::MetricFamily size = {
      "normlab_disk_size_bytes", "Size of the disk under a folder.", prometheus::MetricType::Gauge, {}};
  for (const auto& [folder, path] : folders_) {
    std::error_code error;
    const std::filesystem::space_info space = std::filesystem::space(path, error);
    if (error) continue;
    Add(folder, space.available, &free);
    Add(folder, space.capacity, &size);
  }
  return {free, size};
}

}  // namespace normlab
