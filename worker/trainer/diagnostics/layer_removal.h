#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "worker/trainer/diagnostics/stack.h"

namespace normlab::trainer {

/// The loss without one layer: the block is the identity, its norms included, and every other block stays as it is,
/// with its own l (arXiv:2502.05795, fig. 2, there in points of accuracy). Nothing is trained again.
class LayerRemoval {
 public:
  explicit LayerRemoval(int num_layers) : removed_(static_cast<size_t>(num_layers), 0.0) {}

  /// `states`: x_1 to x_{L+1}, as StreamStates gives them; what stands before a removed layer is not computed again, so
  /// that all L losses take L (L - 1) / 2 blocks.
  void Add(const BlockStack& stack, const std::vector<at::Tensor>& states, const ProbeBatch& batch);

  /// Nats per token, over all positions with a target.
  double Loss() const { return intact_ / tokens_; }
  /// The loss without block `layer` (1-based).
  double LossWithout(int layer) const { return removed_[static_cast<size_t>(layer) - 1] / tokens_; }

 private:
  double intact_ = 0;
  std::vector<double> removed_;
  double tokens_ = 0;
};

}  // namespace normlab::trainer
