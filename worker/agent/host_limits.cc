#include "worker/agent/host_limits.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

namespace normlab::agent {
namespace {

/// The group in /proc/self/cgroup, whose line of version 2 is "0::/path"; "/" if there is none.
std::string GroupOfThisProcess(const std::filesystem::path& root) {
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("0::/")) return line.substr(3);
  }
  return "/";
}

/// memory.max: "max" or bytes.
std::optional<std::int64_t> ReadMemoryMax(const std::filesystem::path& group) {
  std::ifstream file(group / "memory.max");
  std::int64_t bytes = 0;
  return file >> bytes && bytes > 0 ? std::optional(bytes) : std::nullopt;
}

/// cpu.max: "max PERIOD" or "QUOTA PERIOD", both in microseconds.
std::optional<int> ReadThreadsMax(const std::filesystem::path& group) {
  std::ifstream file(group / "cpu.max");
  double quota = 0, period = 0;
  if (!(file >> quota >> period) || !(quota > 0) || !(period > 0)) return std::nullopt;
  return static_cast<int>(std::ceil(quota / period));
}

}  // namespace

HostLimits FindHostLimits(const std::filesystem::path& root) {
  HostLimits limits = {.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))};
  struct sysinfo memory = {};
  if (sysinfo(&memory) == 0) limits.memory_bytes = static_cast<std::int64_t>(memory.totalram) * memory.mem_unit;
  // A container sees its own group as the root of the file system, and then only that one.
  const std::filesystem::path top = root / "sys/fs/cgroup";
  std::filesystem::path group = std::filesystem::path(GroupOfThisProcess(root)).relative_path();
  while (true) {
    if (const auto bytes = ReadMemoryMax(top / group)) limits.memory_bytes = std::min(limits.memory_bytes, *bytes);
    if (const auto threads = ReadThreadsMax(top / group)) limits.threads = std::min(limits.threads, *threads);
    if (group.empty()) return limits;
    group = group.parent_path();
  }
}

}  // namespace normlab::agent
