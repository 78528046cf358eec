#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "worker/trainer/diagnostics/stack.h"

namespace normlab::trainer {

/// Gradients of the mean loss over a number of batches.
class GradientNorms {
 public:
  /// `parameters` get their gradients added by Add; they are zeroed here. `total_targets`: positions with a target in
  /// all batches that will be added, so that each counts alike.
  GradientNorms(std::vector<at::Tensor> parameters, int num_layers, int64_t total_targets);

  void Add(const BlockStack& stack, const ProbeBatch& batch);

  /// |dLoss/dW|_2 of each parameter, in their order.
  std::vector<double> OfParameters() const;
  /// |dLoss/dx_l|_2 of the stream in front of layer l = 1 ... L + 1, over all positions. Their neighbours' ratio is a
  /// free measure of how a block passes gradients on.
  std::vector<double> OfBoundaries() const;

 private:
  std::vector<at::Tensor> parameters_;
  std::vector<double> boundary_squares_;
  int64_t total_targets_;
};

}  // namespace normlab::trainer
