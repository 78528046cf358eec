#include "worker/trainer/model/portable.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/stack.h>

#include <cmath>
#include <tuple>

#include "worker/trainer/data/ignored_target.h"
#include "worker/trainer/model/ops.h"

namespace normlab::trainer {
namespace {

thread_local bool is_portable_only = false;

/// Of rows of statistics, [tokens, 3] as ops::ResidualNorm makes them.
TokenStats Summarize(const at::Tensor& all_rows, const at::Tensor& counted) {
  const at::Tensor rows = counted.defined() ? all_rows.index({counted}) : all_rows;
  if (rows.size(0) == 0) return {};
  const at::Tensor variances = rows.select(1, 0);
  // One copy to the host for all four.
  const at::Tensor numbers =
      at::stack({variances.mean(), variances.median(), rows.select(1, 1).mean(), rows.select(1, 2).max()})
          .to(at::kDouble)
          .cpu();
  const double* values = numbers.const_data_ptr<double>();
  return {.variance = values[0], .variance_median = values[1], .mean_square = values[2], .max_abs = values[3]};
}

}  // namespace

bool HasOwnKernels(const at::Tensor& tensor) {
  const bool is_known = tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble;
  return tensor.is_cpu() && is_known && !is_portable_only;
}

PortableOnly::PortableOnly() : before_(is_portable_only) { is_portable_only = true; }
PortableOnly::~PortableOnly() { is_portable_only = before_; }

namespace portable {

NormResult RunNorm(const Norm* norm, const ResidualSum& sum, const at::Tensor& result, const SublayerStats& stats,
                   at::ScalarType output_type) {
  // Without a residual nothing is added, and `result` not written.
  const bool has_sum = sum.residual.defined();
  const ops::ResidualNormResult all = ops::ResidualNorm(norm, sum, has_sum ? result : at::Tensor(), output_type,
                                                        has_sum && stats.branch != nullptr, stats.output != nullptr);
  if (has_sum && stats.branch != nullptr) *stats.branch = Summarize(all.branch_stats, stats.counted);
  if (stats.output != nullptr) *stats.output = Summarize(all.stream_stats, stats.counted);
  return all.norm;
}

NormGradient NormBackward(const Norm& norm, const at::Tensor& grad_output, const at::Tensor& x,
                          const at::Tensor& inv_rms, const at::Tensor& add, double add_scale) {
  return ops::NormBackward(norm, grad_output, x, inv_rms, add, add_scale);
}

namespace {

/// The fused operations want head sizes in multiples of this; zeros in the rest change no product.
constexpr int64_t kHeadMultiple = 8;

at::Tensor PadHead(const at::Tensor& x) {
  const int64_t rest = x.size(3) % kHeadMultiple;
  return rest == 0 || x.is_cpu() ? x : at::constant_pad_nd(x, {0, kHeadMultiple - rest});
}

bool HasFlash(const at::Tensor& x) { return x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf; }

double ScaleOf(int64_t head_dim) { return 1 / std::sqrt(static_cast<double>(head_dim)); }

}  // namespace

Attended Attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
  const double scale = ScaleOf(query.size(3));
  Attended a = {.inputs = {PadHead(query), PadHead(key), PadHead(value)}};
  const auto& [q, k, v] = a.inputs;
  if (q.is_cpu()) {
    std::tie(a.output, a.logsumexp) =
        at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, /*dropout_p=*/0, /*is_causal=*/true, {}, scale);
  } else if (HasFlash(q)) {
    const auto result = at::_scaled_dot_product_flash_attention(q, k, v, /*dropout_p=*/0, /*is_causal=*/true,
                                                                /*return_debug_mask=*/false, scale);
    a.output = std::get<0>(result);
    a.logsumexp = std::get<1>(result);
    a.random = {std::get<2>(result), std::get<3>(result), std::get<6>(result), std::get<7>(result)};
    a.seq_max = {std::get<4>(result).expect_int(), std::get<5>(result).expect_int()};
  } else {
    std::tie(a.output, a.logsumexp, a.random[2], a.random[3]) = at::_scaled_dot_product_efficient_attention(
        q, k, v, /*attn_bias=*/{}, /*compute_log_sumexp=*/true, /*dropout_p=*/0, /*is_causal=*/true, scale);
  }
  return a;
}

std::array<at::Tensor, 3> AttendBackward(const Attended& a, const at::Tensor& grad) {
  const int64_t head_dim = grad.size(3);
  const double scale = ScaleOf(head_dim);
  const auto& [q, k, v] = a.inputs;
  const at::Tensor padded = PadHead(grad);
  std::array<at::Tensor, 3> gradients;
  if (q.is_cpu()) {
    std::tie(gradients[0], gradients[1], gradients[2]) = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        padded, q, k, v, a.output, a.logsumexp, /*dropout_p=*/0, /*is_causal=*/true, {}, scale);
  } else if (HasFlash(q)) {
    std::tie(gradients[0], gradients[1], gradients[2]) = at::_scaled_dot_product_flash_attention_backward(
        padded, q, k, v, a.output, a.logsumexp, a.random[0], a.random[1], a.seq_max[0], a.seq_max[1], /*dropout_p=*/0,
        /*is_causal=*/true, a.random[2], a.random[3], scale);
  } else {
    at::Tensor unused;
    std::tie(gradients[0], gradients[1], gradients[2], unused) = at::_scaled_dot_product_efficient_attention_backward(
        padded, q, k, v, /*attn_bias=*/{}, a.output, a.logsumexp, a.random[2], a.random[3], /*dropout_p=*/0,
        {true, true, true, false}, /*is_causal=*/true, scale);
  }
  for (at::Tensor& gradient : gradients) gradient = gradient.narrow(3, 0, head_dim);
  return gradients;
}

at::Tensor SwiGlu(const at::Tensor& gate_up) { return ops::SwiGlu(gate_up); }

void SwiGluBackward(const at::Tensor& gate_up, const at::Tensor& grad_activation) {
  ops::SwiGluBackward(gate_up, grad_activation);
}

at::Tensor CrossEntropySum(at::Tensor logits, const at::Tensor& targets, const at::Tensor& grad_scale) {
  static_assert(kIgnoredTarget < 0);
  return ops::CrossEntropy(logits, targets, grad_scale);
}

}  // namespace portable
}  // namespace normlab::trainer
