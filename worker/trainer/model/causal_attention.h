#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/trainer/model/portable.h"

namespace normlab::trainer {

/// Angles of the rotary position embedding (arXiv:2104.09864) for positions 0 to seq-1. Columns i and i + head_dim / 2
/// of a head are one pair.
struct RotaryTable {
  at::Tensor cosine;  // [seq, head_dim / 2]
  at::Tensor sine;
};

/// In float64 for float64, else in float32: positions have more digits than bfloat16.
RotaryTable MakeRotaryTable(int64_t seq, int64_t head_dim, double base, at::TensorOptions options);

/// What softmax attention makes of projected queries, keys and values; the gradient needs all of it.
struct CausalAttention {
  at::Tensor qkv;               // [tokens, 3 * hidden]: the input, before the rotation. Own kernels only.
  at::Tensor context;           // [tokens, hidden]
  at::Tensor logsumexp;         // [batch, heads, seq]. Own kernels only.
  portable::Attended attended;  // Without own kernels.
};

/// softmax(q k' / sqrt(head_dim)) v per head, each position over itself and those before it, with query and key
/// rotated. qkv: [tokens, 3 * hidden], whole sequences of rotary's length one after another. The same bits on any
/// number of threads.
CausalAttention ApplyCausalAttention(const RotaryTable& rotary, int64_t num_heads, const at::Tensor& qkv);

/// The gradient by qkv. grad_context: [tokens, hidden], contiguous.
at::Tensor CausalAttentionBackward(const RotaryTable& rotary, const CausalAttention& saved,
                                   const at::Tensor& grad_context);

}  // namespace normlab::trainer
