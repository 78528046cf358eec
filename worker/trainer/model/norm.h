#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace normlab::trainer {

/// RMSNorm with a gain: y = x / sqrt(mean(x^2) + eps) * gain * output_scale (arXiv:1910.07467).
struct Norm {
  at::Tensor gain;  // [hidden]
  double output_scale;
  double eps;
  at::Tensor bias = {};  // [hidden]. Defined: a LayerNorm (layer_norm.h) instead.
};

/// What one sublayer does to the stream; means over tokens. A member that is null is not wanted.
struct SublayerStats {
  double* branch_mean_square = nullptr;
  double* output_variance = nullptr;  // Over hidden. With output_mean_square or not at all.
  double* output_mean_square = nullptr;
};

struct NormResult {
  at::Tensor output;   // [tokens, hidden]
  at::Tensor inv_rms;  // [tokens]: 1 / sqrt(mean(x^2) + eps), for the gradient.
};

struct NormGradient {
  at::Tensor x;                        // [tokens, hidden]
  std::vector<at::Tensor> parameters;  // The gain's and, if there is one, the bias's. [hidden]
};

/// The norm of x. [tokens, hidden]
NormResult ApplyNorm(const Norm& norm, const at::Tensor& x);

/// The norm of residual_scale * residual + branch; with a null norm, nothing. `branch` becomes that sum. `stats` are
/// the branch's mean square and the numbers of the norm's output, or of the sum where there is no norm.
NormResult AddAndNorm(const Norm* norm, double residual_scale, const at::Tensor& residual, const at::Tensor& branch,
                      const SublayerStats& stats);

/// Gradients of the norm of x. `add`, unless undefined, is added add_scale times to the gradient by x.
NormGradient NormBackward(const Norm& norm, const at::Tensor& grad_output, const at::Tensor& x,
                          const at::Tensor& inv_rms, const at::Tensor& add = {}, double add_scale = 1);

}  // namespace normlab::trainer
