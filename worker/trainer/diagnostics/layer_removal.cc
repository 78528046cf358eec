#include "worker/trainer/diagnostics/layer_removal.h"

#include <c10/core/GradMode.h>

namespace normlab::trainer {

void LayerRemoval::Add(const BlockStack& stack, const std::vector<at::Tensor>& states, const ProbeBatch& batch) {
  const c10::NoGradGuard no_grad;
  const double tokens = static_cast<double>(batch.HasTarget().sum().item<int64_t>());
  intact_ += tokens * stack.loss(states.back(), batch.targets).item<double>();
  for (int layer = 1; layer <= stack.num_layers; ++layer) {
    at::Tensor x = states[static_cast<size_t>(layer) - 1];
    for (int next = layer + 1; next <= stack.num_layers; ++next) x = stack.run_block(next, x, batch.seq_len());
    removed_[static_cast<size_t>(layer) - 1] += tokens * stack.loss(x, batch.targets).item<double>();
  }
  tokens_ += tokens;
}

}  // namespace normlab::trainer
