#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "worker/trainer/events.h"

// Where a run computes. The one place that loads CUDA's libraries: the program itself needs none of them, so that one
// program serves hosts with and without a GPU.
namespace normlab::trainer {

struct RunDevice {
  c10::Device device = c10::kCPU;
  std::string name = "cpu";  // "cpu" or the driver's name of the GPU.
  int64_t memory_bytes = 0;  // Of a GPU.
  std::string lacks;         // Why it is no GPU, in one line for people; empty if it is.
  std::string kernels_lack;  // GPU: why normlab's own kernels are not loaded; empty if they are.

  bool is_narrow = false;  // Computes in bfloat16 where the spec stores weights so: GPUs.

  bool is_cuda() const { return device.is_cuda(); }
};

/// Looks for a GPU and loads what computing on it needs: LibTorch's CUDA part from the folder of LibTorch itself, then
/// normlab's kernels (libnormlab_cuda.so in ../lib beside the program), which are optional. Where there is no GPU
/// nothing of CUDA stays loaded but, if there is one, its driver. Call it before anything that asks LibTorch about
/// CUDA, which would remember that there was none. Throws nothing.
RunDevice FindDevice();

/// The device of a run whose spec wishes for "auto", "cpu" or "cuda". With "cpu" nothing is loaded. Says as a warning
/// what a worker's GPU lacks where "auto" has to do without, and throws std::runtime_error where "cuda" has to.
RunDevice OpenDevice(const std::string& wish, EventSink& events);

/// Most bytes that LibTorch has had allocated on a GPU so far; 0 on a CPU.
int64_t PeakDeviceBytes(const RunDevice& device);

/// What `normlab-train --probe-device` prints: one line of JSON with device ("cpu" or "cuda"), name, memory_bytes,
/// compute_capability, torch, lacks and kernels_lack.
std::string ProbeLine();

}  // namespace normlab::trainer
