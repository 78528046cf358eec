#include "worker/trainer/diagnostics/jacobian.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/quantile.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <random>
#include <utility>

#include "worker/trainer/data/ignored_target.h"

namespace normlab::trainer {
namespace {

/// Of each sequence that has targets, the rows of [tokens, hidden] of its positions with one, in random order.
std::vector<std::vector<int64_t>> ShuffledRows(const ProbeBatch& batch, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto targets = batch.targets.accessor<int64_t, 2>();
  std::vector<std::vector<int64_t>> sequences;
  for (int64_t sequence = 0; sequence < targets.size(0); ++sequence) {
    std::vector<int64_t> rows;
    for (int64_t position = 0; position < targets.size(1); ++position) {
      if (targets[sequence][position] == kIgnoredTarget) continue;
      rows.push_back(sequence * targets.size(1) + position);
      std::swap(rows.back(), rows[random() % rows.size()]);
    }
    if (!rows.empty()) sequences.push_back(std::move(rows));
  }
  return sequences;
}

/// The `draw`-th row of each sequence: all of its positions have their turn before one has a second.
at::Tensor RowsOfDraw(const std::vector<std::vector<int64_t>>& sequences, int64_t draw) {
  std::vector<int64_t> rows;
  for (const auto& sequence : sequences) rows.push_back(sequence[static_cast<size_t>(draw) % sequence.size()]);
  return at::tensor(rows, at::kLong);
}

/// |J^T v - v|^2 / |v|^2 at each of `rows`. Each sequence has one row, and a block never mixes sequences, so that one
/// backward serves all.
at::Tensor ProbeOnce(const BlockStack& stack, int layer, const at::Tensor& input, int64_t seq_len,
                     const at::Tensor& rows, at::Generator generator) {
  const at::AutoGradMode grad(true);
  const at::Tensor x = input.detach().requires_grad_();
  const at::Tensor y = stack.run_block(layer, x, seq_len);
  const at::Tensor v = at::randn({rows.size(0), x.size(1)}, generator, x.options().requires_grad(false));
  const at::Tensor grad_y = at::zeros_like(y).detach();
  grad_y.index_copy_(0, rows, v);
  const at::Tensor product = torch::autograd::grad({y}, {x}, {grad_y})[0].index_select(0, rows);  // [rows, hidden]
  return ((product - v).square().sum(-1) / v.square().sum(-1)).to(at::kDouble);                   // [rows]
}

}  // namespace

std::vector<IdentityDistance> JacobianIdentityDistances(const BlockStack& stack, const ProbeBatch& batch,
                                                        const JacobianOptions& options) {
  const auto sequences = ShuffledRows(batch, options.seed);
  TORCH_CHECK(!sequences.empty(), "no position of the probe batch has a target");
  const at::Generator generator = at::detail::createCPUGenerator(options.seed);
  const std::vector<at::Tensor> states = StreamStates(stack, batch);
  const int64_t draws = std::max<int64_t>(1, options.tokens / static_cast<int64_t>(sequences.size()));
  std::vector<IdentityDistance> distances;
  for (int layer = 1; layer <= stack.num_layers; ++layer) {
    std::vector<at::Tensor> of_tokens;
    for (int64_t draw = 0; draw < draws; ++draw) {
      const at::Tensor rows = RowsOfDraw(sequences, draw);
      at::Tensor sum = at::zeros({rows.size(0)}, at::kDouble);
      for (int probe = 0; probe < options.probes; ++probe) {
        sum += ProbeOnce(stack, layer, states[layer - 1], batch.seq_len(), rows, generator);
      }
      of_tokens.push_back(sum / static_cast<double>(options.probes));
    }
    const at::Tensor all = at::cat(of_tokens);
    distances.push_back({.mean = all.mean().item<double>(), .median = at::quantile(all, 0.5).item<double>()});
  }
  return distances;
}

}  // namespace normlab::trainer
