#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/trainer/model/transformer.h"
#include "worker/trainer/spec.h"

namespace normlab::trainer {

/// AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) in one fused pass over memory. Decoupled decay, only of the
/// parameters that decay.
class AdamW {
 public:
  AdamW(const std::vector<Parameter>& parameters, const TrainSpec& train);

  /// Updates all parameters from their gradients. `step` is 1-based and sets the bias correction, `lr` is absolute.
  void Step(int64_t step, double lr);

  /// First and second moments, in the order of the parameters; float32, of their shapes.
  const std::vector<at::Tensor>& exp_avgs() const { return exp_avgs_; }
  const std::vector<at::Tensor>& exp_avg_sqs() const { return exp_avg_sqs_; }

 private:
  struct Group {
    double weight_decay;
    std::vector<at::Tensor> parameters;
    std::vector<at::Tensor> exp_avgs;
    std::vector<at::Tensor> exp_avg_sqs;
  };

  TrainSpec train_;
  std::vector<at::Tensor> exp_avgs_;
  std::vector<at::Tensor> exp_avg_sqs_;
  std::vector<Group> groups_;
};

}  // namespace normlab::trainer
