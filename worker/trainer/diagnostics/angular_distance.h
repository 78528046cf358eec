#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "worker/trainer/diagnostics/stack.h"

namespace normlab::trainer {

/// d(l, n) = arccos(<x_l, x_{l+n}> / (|x_l| |x_{l+n}|)) / pi, averaged over tokens; x_l is the input of layer l
/// (arXiv:2403.17887, eq. 8; arXiv:2502.05795, eq. 1). From 0 (the same direction) over 0.5 (orthogonal) to 1. Raw: not
/// clipped and not rescaled, so that values of two runs can be compared. A small distance does not say that a layer can
/// be left out; LayerRemoval measures that.
class AngularDistance {
 public:
  explicit AngularDistance(int num_layers);

  /// `states`: x_1 to x_{L+1}, as StreamStates gives them. The cosine is float64, since arccos near 1 loses half of its
  /// digits.
  void Add(const std::vector<at::Tensor>& states, const ProbeBatch& batch);

  /// Element [l - 1][n - 1] is d(l, n), for l + n <= L + 1.
  std::vector<std::vector<double>> AllPositions() const { return Mean(all_sum_, all_tokens_); }
  /// Over the last position of each sequence only.
  std::vector<std::vector<double>> LastPosition() const { return Mean(last_sum_, last_tokens_); }

 private:
  static std::vector<std::vector<double>> Mean(const at::Tensor& sum, int64_t tokens);

  at::Tensor all_sum_;   // float64 [L + 1, L + 1]
  at::Tensor last_sum_;  // The same of last positions.
  int64_t all_tokens_ = 0;
  int64_t last_tokens_ = 0;
};

}  // namespace normlab::trainer
