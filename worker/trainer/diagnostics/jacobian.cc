#include "worker/trainer/diagnostics/jacobian.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <random>

#include "worker/trainer/data/ignored_target.h"

namespace normlab::trainer {
namespace {

/// One position with a target of each sequence that has one, as rows of [tokens, hidden].
at::Tensor DrawRows(const ProbeBatch& batch, std::mt19937_64* random) {
  const auto targets = batch.targets.accessor<int64_t, 2>();
  std::vector<int64_t> rows;
  for (int64_t sequence = 0; sequence < targets.size(0); ++sequence) {
    std::vector<int64_t> candidates;
    for (int64_t position = 0; position < targets.size(1); ++position) {
      if (targets[sequence][position] != kIgnoredTarget) candidates.push_back(sequence * targets.size(1) + position);
    }
    if (!candidates.empty()) rows.push_back(candidates[(*random)() % candidates.size()]);
  }
  return at::tensor(rows, at::kLong);
}

/// Mean over `rows` of |J^T v - v|^2 / |v|^2. Each sequence has one row, and a block never mixes sequences, so that one
/// backward serves all.
double ProbeOnce(const BlockStack& stack, int layer, const at::Tensor& input, int64_t seq_len, const at::Tensor& rows,
                 at::Generator generator) {
  const at::AutoGradMode grad(true);
  const at::Tensor x = input.detach().requires_grad_();
  const at::Tensor y = stack.run_block(layer, x, seq_len);
  const at::Tensor v = at::randn({rows.size(0), x.size(1)}, generator, x.options().requires_grad(false));
  const at::Tensor grad_y = at::zeros_like(y).detach();
  grad_y.index_copy_(0, rows, v);
  const at::Tensor product = torch::autograd::grad({y}, {x}, {grad_y})[0].index_select(0, rows);  // [rows, hidden]
  return ((product - v).square().sum(-1) / v.square().sum(-1)).mean().item<double>();
}

}  // namespace

std::vector<double> JacobianIdentityDistances(const BlockStack& stack, const ProbeBatch& batch,
                                              const JacobianOptions& options) {
  std::mt19937_64 random(options.seed);
  const at::Generator generator = at::detail::createCPUGenerator(options.seed);
  const std::vector<at::Tensor> states = StreamStates(stack, batch);
  std::vector<double> sums(static_cast<size_t>(stack.num_layers), 0.0);
  const int64_t draws = std::max<int64_t>(1, options.tokens / batch.inputs.size(0));
  for (int64_t draw = 0; draw < draws; ++draw) {
    const at::Tensor rows = DrawRows(batch, &random);
    TORCH_CHECK(rows.size(0) > 0, "no position of the probe batch has a target");
    for (int layer = 1; layer <= stack.num_layers; ++layer) {
      for (int probe = 0; probe < options.probes; ++probe) {
        sums[layer - 1] += ProbeOnce(stack, layer, states[layer - 1], batch.seq_len(), rows, generator);
      }
    }
  }
  for (double& sum : sums) sum /= static_cast<double>(draws * options.probes);
  return sums;
}

}  // namespace normlab::trainer
