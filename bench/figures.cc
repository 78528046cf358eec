#include "bench/figures.h"

#include <sys/utsname.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <thread>
#include <utility>

#include "fmt/format.h"

namespace normlab::bench {
namespace {

std::string CpuModel() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace

double Quantile(std::vector<double> samples, double fraction) {
  std::sort(samples.begin(), samples.end());
  const double rank = std::ceil(fraction * static_cast<double>(samples.size()));
  return samples[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

Figure Summarize(std::string name, std::string unit, const std::vector<double>& samples, double fraction) {
  const auto [min, max] = std::minmax_element(samples.begin(), samples.end());
  return {.name = std::move(name),
          .value = Quantile(samples, fraction),
          .unit = std::move(unit),
          .min = *min,
          .max = *max,
          .n = samples.size()};
}

std::string ToLine(const Figure& figure) {
  return fmt::format("{} {:.4g} {} ({:.4g}..{:.4g}, n={})", figure.name, figure.value, figure.unit, figure.min,
                     figure.max, figure.n);
}

nlohmann::json DescribeMachine(const std::string& folder) {
  nlohmann::json machine = {{"cpu", CpuModel()}, {"cores", std::thread::hardware_concurrency()}};
  if (utsname system; uname(&system) == 0) machine["kernel"] = fmt::format("{} {}", system.sysname, system.release);
  if (struct statfs stat; statfs(folder.c_str(), &stat) == 0) {
    machine["file_system_magic"] = fmt::format("{:#x}", static_cast<unsigned long>(stat.f_type));
  }
  return machine;
}

absl::Status WriteJson(const std::string& path, const std::vector<Figure>& figures, const nlohmann::json& versions,
                       const nlohmann::json& machine) {
  nlohmann::json document = {{"bench", "control"}, {"versions", versions}, {"machine", machine}};
  for (const Figure& figure : figures) {
    document["figures"].push_back({{"name", figure.name},
                                   {"value", figure.value},
                                   {"unit", figure.unit},
                                   {"min", figure.min},
                                   {"max", figure.max},
                                   {"n", figure.n}});
  }
  std::ofstream file(path);
  file << document.dump(2) << "\n";
  file.close();
  if (!file) return absl::UnavailableError(fmt::format("cannot write {}", path));
  return absl::OkStatus();
}

}  // namespace normlab::bench
