#pragma once

#include <ATen/core/Tensor.h>

#include "worker/trainer/model/norm.h"

// What a model without kernels of its own (portable.h) computes between its products, as operators of LibTorch
// ("normlab::..."), so that the tensors' device picks the code: on a GPU the kernels of worker/trainer/cuda where their
// library is loaded, everywhere else LibTorch's own operations (ops_composite.cc), which are also the kernels'
// reference. No operator knows of autograd: the model's nodes call forward and backward. Sums are in float32 (float64
// for float64) whatever the tensors hold. The kernels refuse shapes and types that they do not know, with the numbers.
namespace normlab::trainer::ops {

struct ResidualNormResult {
  NormResult norm;
  // [tokens, 3] of each row: variance, mean square, largest magnitude; undefined where not wanted.
  at::Tensor branch_stats;
  at::Tensor stream_stats;
};

/// AddAndNorm (norm.h) with statistics by row. `sum_result` is undefined where sum.residual is.
ResidualNormResult ResidualNorm(const Norm* norm, const ResidualSum& sum, const at::Tensor& sum_result,
                                at::ScalarType output_type, bool wants_branch_stats, bool wants_stream_stats);

/// NormBackward (norm.h). Gradients by parameters are in the type of sums.
NormGradient NormBackward(const Norm& norm, const at::Tensor& grad_output, const at::Tensor& x,
                          const at::Tensor& inv_rms, const at::Tensor& add, double add_scale);

/// a * b summed over rows, [tokens, dim] to [dim], in the type of sums.
at::Tensor ColumnProducts(const at::Tensor& a, const at::Tensor& b);

/// silu(gate) * up (arXiv:2002.05202). [tokens, 2 * dim], gates first, to [tokens, dim].
at::Tensor SwiGlu(const at::Tensor& gate_up);

/// In place: gate_up becomes its gradient, and grad_output what SwiGlu gave, which the next gradient needs.
void SwiGluBackward(const at::Tensor& gate_up, const at::Tensor& grad_output);

/// Sum over rows of their cross entropy in nats, [], in the type of sums. With grad_scale ([], of that type, unless
/// undefined) the logits become it times its gradient. Targets: int64 [tokens]; a negative one does not count; the
/// kernels make the loss NaN for one beyond the vocabulary.
at::Tensor CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& grad_scale);

}  // namespace normlab::trainer::ops
