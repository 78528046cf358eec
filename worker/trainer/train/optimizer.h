#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/trainer/model/transformer.h"
#include "worker/trainer/spec.h"
#include "worker/trainer/train/flat_kernels.h"
#include "worker/trainer/train/shards.h"

namespace normlab::trainer {

/// Adam (arXiv:1412.6980: decay is part of the gradient) or AdamW (arXiv:1711.05101: decay is of the weight), in one
/// pass over memory; only parameters that decay do. Keeps the state of this rank's part of the parameters and updates
/// that part alone. The same bits at any number of threads.
class Adam {
 public:
  /// State of one slice; float32 [end - begin], where the weights are. Of weights in bfloat16 under bf16_pure the
  /// moments are bfloat16 as well.
  struct State {
    ParameterSlice slice;
    at::Tensor exp_avg;
    at::Tensor exp_avg_sq;
    at::Tensor master;  // Weights before rounding; undefined unless param_dtype is fp32_master.
  };

  /// With zero_stage 0 pass rank 0 of 1: all parameters are this rank's.
  Adam(const std::vector<Parameter>& parameters, const TrainSpec& train, int rank, int world_size);

  /// Call when the weights were set from outside: makes the masters, and rounds the weights where param_dtype says so.
  void AdoptWeights();

  /// Updates this rank's part from its gradients times `grad_scale`. `step` is 1-based and sets the bias correction,
  /// `lr` is absolute.
  void Step(int64_t step, double lr, double grad_scale = 1);

  Rounding rounding() const { return rounding_; }
  /// In the order of the parameters.
  const std::vector<State>& states() const { return states_; }

 private:
  /// What one thread takes at a time: elements [begin, end) of a slice.
  struct Chunk {
    size_t state;
    int64_t begin;
    int64_t end;
  };

  void StepPortably(int64_t step, double lr, double grad_scale);

  const std::vector<Parameter>& parameters_;
  TrainSpec train_;
  bool is_portable_;  // By LibTorch's fused operation: on a GPU and in bfloat16.
  Rounding rounding_;
  std::vector<State> states_;
  std::vector<Chunk> chunks_;
};

}  // namespace normlab::trainer
