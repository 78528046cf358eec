#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

// Linear attention with decay (Lightning Attention, arXiv:2401.04658; as in MiniMax-01, arXiv:2501.08313): per head
//
//   S_t = exp(-s) S_{t-1} + k_t v_t',   o_t = S_t' q_t
//
// with a slope s of its own: no softmax, no scaling, no positions. Computed in chunks of C positions, which costs
// seq * (C + 2 head_dim) * head_dim instead of seq^2 * head_dim: inside a chunk o = ((q k') * D) v with D_rc =
// exp(-s(r-c)) for r >= c, else 0; from the chunks before it, r positions into it, o += exp(-s r) S' q.
namespace normlab::trainer {

/// Slopes of the heads of one block: 2^(-8 h / heads) * (1 - layer0 / (num_layers - 1) + 1e-5) for h = 1 to heads. The
/// first block forgets fastest, the last hardly at all. `layer0` counts all blocks of the model, softmax ones too, from
/// 0.
std::vector<double> LightningSlopes(int64_t num_heads, int layer0, int num_layers);

/// The powers of exp(-s) that a chunk needs, made once per block.
struct LightningDecay {
  at::Tensor mask;     // [heads, chunk, chunk]: D
  at::Tensor rows;     // [heads, chunk, 1]: exp(-s r), r = 1 to chunk, from the chunks before
  at::Tensor columns;  // [heads, chunk, 1]: exp(-s (chunk - c)), c = 1 to chunk, to the state behind the chunk
};

LightningDecay MakeLightningDecay(const std::vector<double>& slopes, int64_t chunk, at::ScalarType dtype);

/// What the gradient needs. The positions are padded with zeros to whole chunks.
struct LightningSaved {
  at::Tensor query;  // [batch, heads, chunks, chunk, head_dim]
  at::Tensor key;
  at::Tensor value;
  at::Tensor states;  // [batch, heads, chunks, head_dim, head_dim]: S before each chunk. Undefined for one chunk.
};

struct LightningGradient {
  at::Tensor query;  // [batch, heads, seq, head_dim]
  at::Tensor key;
  at::Tensor value;
};

/// query, key, value: [batch, heads, seq, head_dim] of any strides, float32 or float64; so is the result. States have
/// the same type: at 16 bits a sum over thousands of positions would stop growing.
at::Tensor LightningForward(const LightningDecay& decay, const at::Tensor& query, const at::Tensor& key,
                            const at::Tensor& value, LightningSaved* saved);

LightningGradient LightningBackward(const LightningDecay& decay, const LightningSaved& saved,
                                    const at::Tensor& grad_output);

}  // namespace normlab::trainer
