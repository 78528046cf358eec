#include "worker/trainer/model/attention.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

namespace normlab::trainer {
at::Tensor AttentionForward(const AttentionWeights& weights, const RotaryTable& rotary, const at::Tensor& input,
                            CausalAttention* saved) {
  *saved = ApplyCausalAttention(rotary, weights.num_heads, at::mm(input, weights.qkv.t()));
  return at::mm(saved->context, weights.output.t());
}

AttentionGradient AttentionBackward(const AttentionWeights& weights, const RotaryTable& rotary, const at::Tensor& input,
                                    const CausalAttention& saved, const at::Tensor& grad_output, const at::Tensor& add,
                                    double add_scale) {
  const at::Tensor grad_qkv = CausalAttentionBackward(rotary, saved, at::mm(grad_output, weights.output));
  return {.input = add.defined() ? at::addmm(add, grad_qkv, weights.qkv, add_scale) : at::mm(grad_qkv, weights.qkv),
          .qkv = at::mm(grad_qkv.t(), input),
          .output = at::mm(grad_output.t(), saved.context)};
}

}  // namespace normlab::trainer
