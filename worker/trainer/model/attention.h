#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/trainer/model/causal_attention.h"

namespace normlab::trainer {

/// Causal multi-head self-attention with its output projection; no biases.
struct AttentionWeights {
  at::Tensor qkv;     // [3 * hidden, hidden]: query, key and value one under another, so that they are one product.
  at::Tensor output;  // [hidden, hidden]
  int64_t num_heads;
};

struct AttentionGradient {
  at::Tensor input;  // [tokens, hidden]
  at::Tensor qkv;
  at::Tensor output;
};

/// input: [tokens, hidden], whole sequences of rotary's length one after another. The same shape comes back.
/// `saved` is what the gradient needs.
at::Tensor AttentionForward(const AttentionWeights& weights, const RotaryTable& rotary, const at::Tensor& input,
                            CausalAttention* saved);

/// `add`, unless undefined, is added add_scale times to the gradient by the input.
AttentionGradient AttentionBackward(const AttentionWeights& weights, const RotaryTable& rotary, const at::Tensor& input,
                                    const CausalAttention& saved, const at::Tensor& grad_output,
                                    const at::Tensor& add = {}, double add_scale = 1);

}  // namespace normlab::trainer
