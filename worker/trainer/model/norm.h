#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "common/norm_scheme.h"

namespace normlab::trainer {

/// y = output_scale * N(x), with N as its kind says (NormKind).
struct Norm {
  at::Tensor gain;  // [dim]
  double output_scale = 1;
  double eps = 0;
  NormKind kind = NormKind::kRms;
  at::Tensor bias = {};   // [dim]; undefined: none.
  at::Tensor alpha = {};  // kDyt: [1]

  /// The trainable part: gain, then bias and alpha where there are.
  std::vector<at::Tensor> Weights() const;
};

/// Of the rows of [tokens, hidden], over the tokens that count.
struct TokenStats {
  double variance = 0;         // Over hidden; mean over tokens.
  double variance_median = 0;  // Over tokens (the lower one): a few tokens with massive activations carry the mean.
  double mean_square = 0;
  double max_abs = 0;  // Largest of any element.
};

/// What is wanted of one sublayer's effect on the stream. A member that is null is not.
struct SublayerStats {
  at::Tensor counted = {};       // bool [tokens]; undefined: all count.
  TokenStats* branch = nullptr;  // Of what the branch adds, with its scales.
  TokenStats* output = nullptr;
};

struct NormResult {
  at::Tensor output;   // [tokens, dim], in the type of the norm's gain unless said otherwise
  at::Tensor inv_rms;  // [tokens]: 1 / sqrt(mean(x^2) + eps) or 1 / sqrt(var(x) + eps), for the gradient.
};

struct NormGradient {
  at::Tensor x;                        // [tokens, dim]
  std::vector<at::Tensor> parameters;  // In the order of Norm::Weights().
};

/// sum_scale * (residual_scale * residual + branch_scale * branch_gain * branch), rounded to bfloat16 if so wanted.
struct ResidualSum {
  at::Tensor residual;  // [tokens, hidden]
  double residual_scale = 1;
  at::Tensor branch;  // [tokens, hidden]
  double branch_scale = 1;
  at::Tensor branch_gain = {};  // [hidden]; undefined: ones.
  double sum_scale = 1;
  bool is_rounded = false;
};

/// The norm of x. [tokens, dim]
NormResult ApplyNorm(const Norm& norm, const at::Tensor& x);

/// Writes the sum to `result` (which may be sum.branch) and returns its norm; with a null norm, nothing. `stats` are of
/// the branch's part and of the norm's output, or of the sum where there is no norm.
/// The norm is in `output_type`, or in that of its gain; own kernels know one type alone, that of all tensors.
NormResult AddAndNorm(const Norm* norm, const ResidualSum& sum, const at::Tensor& result, const SublayerStats& stats,
                      at::ScalarType output_type = at::ScalarType::Undefined);

TokenStats StatsOf(const at::Tensor& x, const at::Tensor& counted);

/// Gradients of the norm of x. `add`, unless undefined, is added add_scale times to the gradient by x.
NormGradient NormBackward(const Norm& norm, const at::Tensor& grad_output, const at::Tensor& x,
                          const at::Tensor& inv_rms, const at::Tensor& add = {}, double add_scale = 1);

/// a * b summed over tokens. [tokens, dim] to [dim]
at::Tensor SumOfProducts(const at::Tensor& a, const at::Tensor& b);

}  // namespace normlab::trainer
