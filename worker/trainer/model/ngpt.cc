#include "worker/trainer/model/ngpt.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <utility>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

constexpr double kAlphaInit = 0.05;

at::Tensor Unit(const at::Tensor& x) { return x / x.norm(2, {-1}, /*keepdim=*/true); }

double Root(int64_t n) { return std::sqrt(static_cast<double>(n)); }

/// Heads of a projection, [batch, heads, seq, head_dim].
at::Tensor Heads(const at::Tensor& x, const at::Tensor& weight, const RotaryTable& rotary) {
  const int64_t seq = rotary.cosine.size(0), head_dim = 2 * rotary.cosine.size(1);
  return at::matmul(x, weight.t()).view({-1, seq, weight.size(0) / head_dim, head_dim}).transpose(1, 2);
}

at::Tensor Rotate(const at::Tensor& x, const RotaryTable& rotary) {
  const int64_t half = rotary.cosine.size(1);
  const at::Tensor a = x.narrow(3, 0, half), b = x.narrow(3, half, half);
  return at::cat({a * rotary.cosine - b * rotary.sine, b * rotary.cosine + a * rotary.sine}, 3).to(x.scalar_type());
}

at::Tensor Attend(const NgptBlock& block, const BranchContext& context, const at::Tensor& x) {
  const std::vector<at::Tensor>& weights = block.block->sublayers[0].branch->parameters();
  const int64_t hidden = x.size(1), head_dim = 2 * context.rotary.cosine.size(1);
  const at::Tensor scale = (block.query_key_scale * Root(hidden)).view({1, hidden / head_dim, 1, head_dim});
  const at::Tensor query = scale * Unit(Rotate(Heads(x, weights[0], context.rotary), context.rotary));
  const at::Tensor key = scale * Unit(Rotate(Heads(x, weights[1], context.rotary), context.rotary));
  const at::Tensor value = Heads(x, weights[2], context.rotary);
  const at::Tensor attended = at::scaled_dot_product_attention(query, key, value, {}, /*dropout_p=*/0,
                                                               /*is_causal=*/true, /*scale=*/Root(head_dim));
  return at::matmul(attended.transpose(1, 2).reshape({-1, hidden}), weights[3].t());
}

at::Tensor FeedForward(const NgptBlock& block, const at::Tensor& x) {
  const std::vector<at::Tensor>& weights = block.block->sublayers[1].branch->parameters();
  const int64_t ffn_hidden = weights[0].size(0);
  const at::Tensor scale = block.up_gate_scale * Root(x.size(1));
  const at::Tensor up = at::matmul(x, weights[1].t()) * scale.narrow(0, 0, ffn_hidden);
  const at::Tensor gate = at::matmul(x, weights[0].t()) * scale.narrow(0, ffn_hidden, ffn_hidden);
  return at::matmul(up * at::silu(gate), weights[2].t());
}

/// What moves u(x) towards u(branch).
at::Tensor Step(const at::Tensor& alpha, const at::Tensor& unit_x, const at::Tensor& branch) {
  return NgptStepSize(alpha) * (Unit(branch) - unit_x);
}

void DivideByNorm(const at::Tensor& matrix, int64_t dim) {
  const c10::NoGradGuard no_grad;
  const at::Tensor data = matrix.detach();
  data.div_(data.norm(2, {dim}, /*keepdim=*/true));
}

}  // namespace

at::Tensor NgptStepSize(const at::Tensor& stored) { return (stored * (kAlphaInit * Root(stored.size(0)))).abs(); }

NgptBlock MakeNgptBlock(std::shared_ptr<const Block> block, int64_t hidden, int64_t ffn_hidden,
                        at::TensorOptions options) {
  const auto make = [&] { return Trainable(at::full({hidden}, 1 / Root(hidden), options)); };
  return {.block = std::move(block),
          .attention_alpha = make(),
          .ffn_alpha = make(),
          .query_key_scale = make(),
          .up_gate_scale = Trainable(at::ones({2 * ffn_hidden}, options))};
}

at::Tensor ApplyNgptBlock(const NgptBlock& block, const BranchContext& context, const at::Tensor& x,
                          const at::Tensor& counted, BlockStats* stats) {
  const at::Tensor unit_x = Unit(x);
  const at::Tensor attention_step = Step(block.attention_alpha, unit_x, Attend(block, context, x));
  const at::Tensor h = Unit(unit_x + attention_step);
  const at::Tensor unit_h = Unit(h);
  const at::Tensor ffn_step = Step(block.ffn_alpha, unit_h, FeedForward(block, h));
  const at::Tensor y = Unit(unit_h + ffn_step);
  if (stats != nullptr) {
    *stats = {.output = StatsOf(y.detach(), counted),
              .attention = StatsOf(attention_step.detach(), counted),
              .ffn = StatsOf(ffn_step.detach(), counted)};
  }
  return y;
}

at::Tensor MakeLogitScale(int64_t vocab_size, int64_t hidden, at::TensorOptions options) {
  return Trainable(at::full({vocab_size}, 1 / Root(hidden), options));
}

at::Tensor LogitScale(const at::Tensor& stored, int64_t hidden) { return stored * Root(hidden); }

void NormalizeMatrices(const NgptBlock& block) {
  for (const Sublayer& sublayer : block.block->sublayers) {
    const std::vector<at::Tensor>& weights = sublayer.branch->parameters();
    for (size_t i = 0; i < weights.size(); ++i) DivideByNorm(weights[i], i + 1 < weights.size() ? 1 : 0);
  }
}

void NormalizeRows(const at::Tensor& matrix) { DivideByNorm(matrix, 1); }

}  // namespace normlab::trainer
