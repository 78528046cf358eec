#pragma once

#include <cstdint>
#include <string>

#include "worker/trainer/spec.h"

namespace normlab::trainer {

/// Bytes that training takes at its peak on one device.
struct MemoryNeed {
  int64_t weights = 0;
  int64_t gradients = 0;
  int64_t optimizer = 0;    // Moments and, with fp32_master, the optimizer's own weights.
  int64_t activations = 0;  // What the forward of one micro batch keeps for its backward, and the largest backward.
  int64_t logits = 0;       // The rows of logits that exist at a time, and the head's gradients.
  int64_t fixed = 0;        // CUDA itself, its libraries' workspaces.

  int64_t Total() const { return weights + gradients + optimizer + activations + logits + fixed; }
};

struct MemoryQuestion {
  const RunSpec& run;
  int64_t vocab_size;
  int world_size = 1;
  bool is_narrow = false;  // The model is in bfloat16 where the spec stores weights so: GPUs.
  bool is_device = false;  // A GPU: larger pieces of logits, and what CUDA takes.
};

/// From the spec alone. Throws PermanentError for a model that cannot be built.
MemoryNeed EstimateMemory(const MemoryQuestion& question);

/// Throws PermanentError with all the numbers, and what would make the run smaller, if the need is more than
/// `device_bytes`.
void RequireFits(const MemoryNeed& need, int64_t device_bytes, const std::string& device_name, const TrainSpec& train);

}  // namespace normlab::trainer
