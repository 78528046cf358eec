#include <ATen/TensorOperators.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>

#include "common/norm_scheme.h"
#include "worker/trainer/model/ops_signatures.h"

namespace normlab::trainer::ops {
namespace {

at::Tensor Wide(const at::Tensor& x) { return x.to(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat); }

at::Tensor MeanOfRow(const at::Tensor& x) { return x.mean(-1, /*keepdim=*/true); }

/// [tokens, 3]: variance, mean square and largest magnitude of each row.
at::Tensor RowStatsOf(const at::Tensor& x) {
  return at::stack({x.var(-1, /*unbiased=*/false), x.square().mean(-1), x.abs().amax(-1)}, 1);
}

ResidualNormTensors ResidualNorm(const OptionalTensor& residual, const at::Tensor& branch,
                                 const OptionalTensor& branch_gain, const OptionalTensor& sum, double residual_scale,
                                 double branch_scale, double sum_scale, bool rounds_sum, int64_t kind,
                                 const OptionalTensor& gain, const OptionalTensor& bias, const OptionalTensor& alpha,
                                 double output_scale, double eps, at::ScalarType output_type, bool wants_branch_stats,
                                 bool wants_stream_stats) {
  at::Tensor x = Wide(branch), inv_rms, output, branch_stats, stream_stats;
  if (residual) {
    if (branch_gain) x = x * *branch_gain;
    if (const double scale = sum_scale * branch_scale; scale != 1) x = x * scale;
    if (wants_branch_stats) branch_stats = RowStatsOf(x);
    x = x.add(*residual, sum_scale * residual_scale);
    if (rounds_sum) x = x.to(at::kBFloat16).to(x.scalar_type());
    sum->copy_(x);
    // What the backward pass will read.
    if (sum->scalar_type() != x.scalar_type()) x = Wide(*sum);
  }
  if (gain) {
    if (static_cast<NormKind>(kind) == NormKind::kDyt) {
      x = at::tanh(x * *alpha) * *gain;
    } else {
      if (static_cast<NormKind>(kind) == NormKind::kLayer) x = x - MeanOfRow(x);
      const at::Tensor inverse = MeanOfRow(x.square()).add_(eps).rsqrt_();
      inv_rms = inverse.squeeze(-1);
      x = x * inverse * *gain;
    }
    if (bias) x = x + *bias;
    if (output_scale != 1) x = x * output_scale;
    output = x.to(output_type);
  }
  if (wants_stream_stats) stream_stats = RowStatsOf(x);
  return {output, inv_rms, branch_stats, stream_stats};
}

NormGradientTensors NormBackward(const at::Tensor& grad_output, const at::Tensor& x, const OptionalTensor& inv_rms,
                                 int64_t kind, const at::Tensor& gain, const OptionalTensor& bias,
                                 const OptionalTensor& alpha, double output_scale, const OptionalTensor& add,
                                 double add_scale) {
  const at::Tensor wide = Wide(x);
  at::Tensor grad = grad_output.to(wide.scalar_type());
  if (output_scale != 1) grad = grad * output_scale;
  const at::Tensor by_z = grad * gain;
  at::Tensor grad_x, grad_gain, grad_bias, grad_alpha;
  if (static_cast<NormKind>(kind) == NormKind::kDyt) {
    const at::Tensor z = at::tanh(wide * *alpha);
    const at::Tensor by_inner = by_z * (1 - z.square());
    grad_x = by_inner * *alpha;
    grad_gain = (grad * z).sum(0);
    grad_alpha = (by_inner * wide).sum().view({1});
  } else {
    const bool is_layer = static_cast<NormKind>(kind) == NormKind::kLayer;
    const at::Tensor inverse = inv_rms->to(wide.scalar_type()).unsqueeze(-1);
    const at::Tensor z = (is_layer ? wide - MeanOfRow(wide) : wide) * inverse;
    at::Tensor by_x = by_z - z * MeanOfRow(by_z * z);
    if (is_layer) by_x = by_x - MeanOfRow(by_z);
    grad_x = by_x * inverse;
    grad_gain = (grad * z).sum(0);
  }
  if (add) grad_x = grad_x.add(*add, add_scale);
  if (bias) grad_bias = grad.sum(0);
  return {grad_x.to(x.scalar_type()), grad_gain, grad_bias, grad_alpha};
}

at::Tensor ColumnProducts(const at::Tensor& a, const at::Tensor& b) { return (Wide(a) * b).sum(0); }

at::Tensor SwiGlu(const at::Tensor& gate_up) {
  const int64_t dim = gate_up.size(1) / 2;
  return at::silu(gate_up.narrow(1, 0, dim)).mul_(gate_up.narrow(1, dim, dim));
}

void SwiGluBackward(const at::Tensor& gate_up, const at::Tensor& grad_output) {
  const int64_t dim = gate_up.size(1) / 2;
  at::Tensor gate = gate_up.narrow(1, 0, dim), up = gate_up.narrow(1, dim, dim);
  const at::Tensor silu = at::silu(gate);
  const at::Tensor activation = silu * up;
  gate.copy_(at::silu_backward(grad_output * up, gate));
  up.copy_(grad_output * silu);
  grad_output.copy_(activation);
}

at::Tensor CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const OptionalTensor& grad_scale) {
  const at::Tensor log_probability = at::_log_softmax(Wide(logits), 1, /*half_to_float=*/false);
  const at::Tensor safe = targets.clamp_min(0).unsqueeze(1);
  const at::Tensor counts = targets.ge(0).to(log_probability.scalar_type());
  const at::Tensor sum = -(log_probability.gather(1, safe).squeeze(1) * counts).sum();
  if (grad_scale) {
    at::Tensor gradient = log_probability.exp();
    gradient.scatter_(1, safe, gradient.gather(1, safe) - 1);  // One place a row: no order, the same bits each time.
    logits.copy_(gradient.mul_((counts * *grad_scale).unsqueeze(1)));
  }
  return sum;
}

}  // namespace

const Implementations& Composite() {
  static constexpr Implementations kAll = {ResidualNorm, NormBackward,   ColumnProducts,
                                           SwiGlu,       SwiGluBackward, CrossEntropy};
  return kAll;
}

}  // namespace normlab::trainer::ops
