// How much is left of the disks under a daemon's folders, for Prometheus.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace normlab {

/// Asks the disks when it is scraped, on the thread of the scrape: a network file system that hangs may hold up that
/// thread and nothing else.
class DiskMetrics final : public prometheus::Collectable {
 public:
  /// What a folder is for ("checkpoints") -> where it is.
  explicit DiskMetrics(std::map<std::string, std::filesystem::path> folders) : folders_(std::move(folders)) {}

  /// Folders whose disk does not answer are left out.
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::map<std::string, std::filesystem::path> folders_;
};

}  // namespace normlab
