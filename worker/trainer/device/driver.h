#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace normlab::trainer {

/// A GPU as the NVIDIA driver describes it.
struct Gpu {
  std::string name;          // "NVIDIA H100 80GB HBM3"
  int64_t memory_bytes = 0;  // All of it, also what others use.
  int major = 0;             // Compute capability.
  int minor = 0;
};

struct DriverAnswer {
  std::optional<Gpu> gpu;  // The first one that this process may use (CUDA_VISIBLE_DEVICES).
  std::string lacks;       // Why there is none, in one line for people.
};

/// Asks the driver, which is loaded if it is there (libcuda.so.1), and no other CUDA library. Refuses a driver that is
/// older than CUDA 13, which LibTorch is built for. Throws nothing.
DriverAnswer AskDriver();

/// The text of the last failed dlopen or dlsym.
std::string LastLoadError();

}  // namespace normlab::trainer
