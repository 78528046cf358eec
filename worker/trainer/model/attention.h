#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace normlab::trainer {

/// Angles of the rotary position embedding (arXiv:2104.09864) for positions 0 to seq-1.
struct RotaryTable {
  at::Tensor cosine;  // [seq, head_dim / 2]
  at::Tensor sine;
};

RotaryTable MakeRotaryTable(int64_t seq, int64_t head_dim, double base, at::ScalarType dtype);

/// Causal multi-head self-attention with its output projection; no biases.
struct AttentionWeights {
  at::Tensor qkv;     // [3 * hidden, hidden]: query, key and value one under another, so that they are one product.
  at::Tensor output;  // [hidden, hidden]
  int64_t num_heads;
};

/// What the gradient needs.
struct AttentionSaved {
  at::Tensor qkv;        // [tokens, 3 * hidden], before the rotation
  at::Tensor context;    // [tokens, hidden], before the output projection
  at::Tensor logsumexp;  // [batch, heads, seq]
};

struct AttentionGradient {
  at::Tensor input;  // [tokens, hidden]
  at::Tensor qkv;
  at::Tensor output;
};

/// input: [tokens, hidden], whole sequences of rotary's length one after another. The same shape comes back.
at::Tensor AttentionForward(const AttentionWeights& weights, const RotaryTable& rotary, const at::Tensor& input,
                            AttentionSaved* saved);

/// `add`, unless undefined, is added add_scale times to the gradient by the input.
AttentionGradient AttentionBackward(const AttentionWeights& weights, const RotaryTable& rotary, const at::Tensor& input,
                                    const AttentionSaved& saved, const at::Tensor& grad_output,
                                    const at::Tensor& add = {}, double add_scale = 1);

}  // namespace normlab::trainer
