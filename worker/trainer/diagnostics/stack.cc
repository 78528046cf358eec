#include "worker/trainer/diagnostics/stack.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include "worker/trainer/data/ignored_target.h"

namespace normlab::trainer {

at::Tensor ProbeBatch::HasTarget() const { return targets.ne(kIgnoredTarget).reshape({-1}); }

at::Tensor ProbeBatch::IsFirst() const {
  const at::Tensor is_first = at::zeros_like(targets, at::kBool);
  is_first.select(1, 0).fill_(true);
  return is_first.reshape({-1}).logical_and(HasTarget());
}

at::Tensor ProbeBatch::IsLast() const {
  const at::Tensor has_target = targets.ne(kIgnoredTarget);
  const at::Tensor position = at::arange(seq_len()).expand_as(targets);
  const at::Tensor last = at::where(has_target, position, -1).amax(1, /*keepdim=*/true);  // [batch, 1]
  return position.eq(last).logical_and(has_target).reshape({-1});
}

at::Tensor RowsWhere(const at::Tensor& x, const at::Tensor& mask) {
  return x.index_select(0, mask.nonzero().squeeze(1));
}

std::vector<at::Tensor> StreamStates(const BlockStack& stack, const ProbeBatch& batch) {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> states = {stack.embed(batch.inputs)};
  for (int layer = 1; layer <= stack.num_layers; ++layer) {
    states.push_back(stack.run_block(layer, states.back(), batch.seq_len()));
  }
  return states;
}

}  // namespace normlab::trainer
