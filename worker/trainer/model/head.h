#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "worker/trainer/data/ignored_target.h"
#include "worker/trainer/model/norm.h"

namespace normlab::trainer {

/// From the stream to the loss: final norm (if the model has one) and the projection to the vocabulary.
struct Head {
  std::optional<Norm> norm;
  at::Tensor weight;  // [vocab, hidden]

  // What autograd knows as trainable; share storage with the tensors above.
  std::vector<at::Tensor> trainable_norm;  // The norm's parameters, in its order.
  at::Tensor trainable_weight;
};

/// Mean cross entropy over the tokens whose target is not kIgnoredTarget, in nats; 0 if there is none. x: [tokens,
/// hidden]; targets: int64 [tokens]. Throws when another target is outside the vocabulary. Where gradients are wanted
/// they are made at once, a few rows of logits at a time: the logits of a whole batch never exist.
at::Tensor HeadLoss(const Head& head, const at::Tensor& x, const at::Tensor& targets);

/// Logits without gradient. [tokens, hidden] to [tokens, vocab].
at::Tensor HeadLogits(const Head& head, const at::Tensor& x);

}  // namespace normlab::trainer
