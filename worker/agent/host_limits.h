// What this process may use of its host.
#pragma once

#include <cstdint>
#include <filesystem>

namespace normlab::agent {

struct HostLimits {
  std::int64_t memory_bytes = 0;
  int threads = 1;
};

/// The memory and the cores of the host, or what a control group (version 2) of this process or of one above it allows
/// of them, if that is less. Parts of a core count as one. Files are looked for below `root`: / but in tests. What
/// cannot be read sets no limit.
HostLimits FindHostLimits(const std::filesystem::path& root = "/");

}  // namespace normlab::agent
