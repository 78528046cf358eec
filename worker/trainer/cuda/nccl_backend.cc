#include <chrono>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "worker/trainer/device/nccl.h"

extern "C" __attribute__((visibility("default"))) c10d::Backend* NormlabMakeNccl(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size, int64_t timeout_seconds);

c10d::Backend* NormlabMakeNccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size,
                               int64_t timeout_seconds) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = std::chrono::seconds(timeout_seconds);
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, world_size, std::move(options)).release();
}
