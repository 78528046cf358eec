#pragma once

#include <ATen/core/Tensor.h>

namespace normlab::trainer {

/// SwiGLU network: down(silu(gate(x)) * up(x)) (arXiv:2002.05202); no biases.
struct MlpWeights {
  at::Tensor gate_up;  // [2 * ffn_hidden, hidden]: gate above up, so that they are one product.
  at::Tensor down;     // [hidden, ffn_hidden]
};

/// What the gradient needs; MlpBackward uses it up.
struct MlpSaved {
  at::Tensor gate_up;  // [tokens, 2 * ffn_hidden]
};

struct MlpGradient {
  at::Tensor input;  // [tokens, hidden]
  at::Tensor gate_up;
  at::Tensor down;
};

/// [tokens, hidden] to the same shape.
at::Tensor MlpForward(const MlpWeights& weights, const at::Tensor& input, MlpSaved* saved);

/// Overwrites what `saved` holds. `add`, unless undefined, is added add_scale times to the gradient by the input.
MlpGradient MlpBackward(const MlpWeights& weights, const at::Tensor& input, MlpSaved saved,
                        const at::Tensor& grad_output, const at::Tensor& add = {}, double add_scale = 1);

}  // namespace normlab::trainer
