#include "worker/trainer/model/block.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <utility>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

/// What a block's gradient needs of its forward.
struct BlockSaved {
  at::Tensor x;                // The block's input.
  at::Tensor attention_input;  // Pre-LN: N1(x). Post-LN: x.
  CausalAttention attention;
  at::Tensor attention_sum;  // Residual plus attention.
  at::Tensor ffn_input;      // Pre-LN: N2(attention_sum). Post-LN: N1(attention_sum).
  MlpSaved mlp;
  at::Tensor ffn_sum;            // Post-LN: residual plus FFN.
  at::Tensor attention_inv_rms;  // Of N1, whatever it was applied to.
  at::Tensor ffn_inv_rms;        // Of N2.
};

struct BlockGradient {
  at::Tensor x;
  AttentionGradient attention;
  MlpGradient mlp;
  at::Tensor attention_gain;
  at::Tensor ffn_gain;
};

SublayerStats AttentionStats(BlockStats* stats) {
  if (stats == nullptr) return {};
  return {.branch_mean_square = &stats->attention_mean_square};
}

SublayerStats FfnStats(BlockStats* stats) {
  if (stats == nullptr) return {};
  return {.branch_mean_square = &stats->ffn_mean_square,
          .output_variance = &stats->output_variance,
          .output_mean_square = &stats->output_mean_square};
}

/// h = x + A(N1(x));  y = h + F(N2(h))
at::Tensor PreForward(const Block& block, const RotaryTable& rotary, const at::Tensor& x, BlockStats* stats,
                      BlockSaved* saved) {
  const NormResult attention_norm = ApplyNorm(block.attention_norm, x);
  const at::Tensor h = AttentionForward(block.attention, rotary, attention_norm.output, &saved->attention);
  const NormResult ffn_norm = AddAndNorm(block.ffn_norm, 1, x, h, AttentionStats(stats));
  const at::Tensor y = MlpForward(block.mlp, ffn_norm.output, &saved->mlp);
  AddResidual(h, y, FfnStats(stats));
  saved->x = x;
  saved->attention_input = attention_norm.output;
  saved->attention_inv_rms = attention_norm.inv_rms;
  saved->attention_sum = h;
  saved->ffn_input = ffn_norm.output;
  saved->ffn_inv_rms = ffn_norm.inv_rms;
  return y;
}

BlockGradient PreBackward(const Block& block, const RotaryTable& rotary, const at::Tensor& grad_y, BlockSaved& saved) {
  BlockGradient gradient;
  gradient.mlp = MlpBackward(block.mlp, saved.ffn_input, std::move(saved.mlp), grad_y);
  const NormGradient h =
      NormBackward(block.ffn_norm, gradient.mlp.input, saved.attention_sum, saved.ffn_inv_rms, grad_y);
  gradient.ffn_gain = h.gain;
  gradient.attention = AttentionBackward(block.attention, rotary, saved.attention_input, saved.attention, h.x);
  const NormGradient x =
      NormBackward(block.attention_norm, gradient.attention.input, saved.x, saved.attention_inv_rms, h.x);
  gradient.attention_gain = x.gain;
  gradient.x = x.x;
  return gradient;
}

/// h = N1(a x + A(x));  y = N2(a h + F(h))
at::Tensor PostForward(const Block& block, const RotaryTable& rotary, const at::Tensor& x, BlockStats* stats,
                       BlockSaved* saved) {
  const double scale = block.plan.residual_scale;
  const at::Tensor attention_sum = AttentionForward(block.attention, rotary, x, &saved->attention);
  const NormResult h = AddAndNorm(block.attention_norm, scale, x, attention_sum, AttentionStats(stats));
  const at::Tensor ffn_sum = MlpForward(block.mlp, h.output, &saved->mlp);
  const NormResult y = AddAndNorm(block.ffn_norm, scale, h.output, ffn_sum, FfnStats(stats));
  saved->attention_input = x;
  saved->attention_sum = attention_sum;
  saved->attention_inv_rms = h.inv_rms;
  saved->ffn_input = h.output;
  saved->ffn_sum = ffn_sum;
  saved->ffn_inv_rms = y.inv_rms;
  return y.output;
}

BlockGradient PostBackward(const Block& block, const RotaryTable& rotary, const at::Tensor& grad_y, BlockSaved& saved) {
  const double scale = block.plan.residual_scale;
  BlockGradient gradient;
  const NormGradient ffn_sum = NormBackward(block.ffn_norm, grad_y, saved.ffn_sum, saved.ffn_inv_rms);
  gradient.ffn_gain = ffn_sum.gain;
  gradient.mlp = MlpBackward(block.mlp, saved.ffn_input, std::move(saved.mlp), ffn_sum.x, ffn_sum.x, scale);
  const NormGradient attention_sum =
      NormBackward(block.attention_norm, gradient.mlp.input, saved.attention_sum, saved.attention_inv_rms);
  gradient.attention_gain = attention_sum.gain;
  gradient.attention = AttentionBackward(block.attention, rotary, saved.attention_input, saved.attention,
                                         attention_sum.x, attention_sum.x, scale);
  gradient.x = gradient.attention.input;
  return gradient;
}

/// One node for the whole block: a graph of its fifty small operations costs more than the arithmetic between the
/// products.
struct BlockNode : torch::autograd::Node {
  std::shared_ptr<const Block> block;
  RotaryTable rotary;
  BlockSaved saved;

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    CheckFirstBackward(saved.ffn_input.defined());
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    BlockSaved used = std::exchange(saved, {});
    const at::Tensor grad_y = grads[0].contiguous();
    const BlockGradient gradient =
        block->plan.is_post ? PostBackward(*block, rotary, grad_y, used) : PreBackward(*block, rotary, grad_y, used);
    const int64_t hidden = block->attention.output.size(0);
    const int64_t ffn_hidden = block->mlp.down.size(1);
    return {gradient.x,
            gradient.attention.qkv.narrow(0, 0, hidden),
            gradient.attention.qkv.narrow(0, hidden, hidden),
            gradient.attention.qkv.narrow(0, 2 * hidden, hidden),
            gradient.attention.output,
            gradient.mlp.gate_up.narrow(0, 0, ffn_hidden),
            gradient.mlp.gate_up.narrow(0, ffn_hidden, ffn_hidden),
            gradient.mlp.down,
            gradient.attention_gain,
            gradient.ffn_gain};
  }

  void release_variables() override { saved = {}; }
};

}  // namespace

at::Tensor ApplyBlock(const std::shared_ptr<const Block>& block, const RotaryTable& rotary, const at::Tensor& x,
                      BlockStats* stats) {
  BlockSaved saved;
  at::Tensor y;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    y = block->plan.is_post ? PostForward(*block, rotary, x, stats, &saved)
                            : PreForward(*block, rotary, x, stats, &saved);
  }
  if (!torch::autograd::compute_requires_grad(x, block->parameters[0])) return y;
  auto node = MakeNode<BlockNode>();
  node->block = block;
  node->rotary = rotary;
  node->saved = std::move(saved);
  torch::autograd::edge_list edges = {torch::autograd::impl::gradient_edge(x)};
  for (const at::Tensor& parameter : block->parameters) {
    edges.push_back(torch::autograd::impl::gradient_edge(parameter));
  }
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(y, node);
  return y;
}

}  // namespace normlab::trainer
