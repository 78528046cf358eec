#include "worker/trainer/diagnostics/angular_distance.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <numbers>

namespace normlab::trainer {
namespace {

// Bounds the memory of one product to a few tens of megabytes.
constexpr int64_t kElementsMax = 1 << 22;

}  // namespace

AngularDistance::AngularDistance(int num_layers)
    : all_sum_(at::zeros({num_layers + 1, num_layers + 1}, at::kDouble)), last_sum_(at::zeros_like(all_sum_)) {}

void AngularDistance::Add(const std::vector<at::Tensor>& states, const ProbeBatch& batch) {
  const auto num_states = static_cast<int64_t>(states.size());
  TORCH_CHECK(num_states == all_sum_.size(0), num_states, " states for ", all_sum_.size(0), " boundaries");
  const at::Tensor has_target = batch.HasTarget(), is_last = batch.IsLast();
  const int64_t tokens = states[0].size(0);
  const int64_t chunk = std::max<int64_t>(1, kElementsMax / (num_states * states[0].size(1)));
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t size = std::min(chunk, tokens - begin);
    std::vector<at::Tensor> parts;
    for (const at::Tensor& state : states) parts.push_back(state.narrow(0, begin, size).to(at::kDouble));
    at::Tensor x = at::stack(parts, 1);                                    // [tokens, L + 1, hidden]
    x = x / x.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-300);           // Zero is orthogonal to all.
    const at::Tensor cosine = at::bmm(x, x.transpose(1, 2)).clamp(-1, 1);  // [tokens, L + 1, L + 1]
    const at::Tensor distance = cosine.acos() / std::numbers::pi;          // [tokens, L + 1, L + 1]
    all_sum_ += RowsWhere(distance, has_target.narrow(0, begin, size)).sum(0);
    last_sum_ += RowsWhere(distance, is_last.narrow(0, begin, size)).sum(0);
  }
  all_tokens_ += has_target.sum().item<int64_t>();
  last_tokens_ += is_last.sum().item<int64_t>();
}

std::vector<std::vector<double>> AngularDistance::Mean(const at::Tensor& sum, int64_t tokens) {
  const int64_t num_layers = sum.size(0) - 1;
  const auto value = sum.accessor<double, 2>();
  std::vector<std::vector<double>> rows;
  for (int64_t l = 0; l < num_layers; ++l) {
    rows.emplace_back();
    for (int64_t n = 1; l + n <= num_layers; ++n) rows.back().push_back(value[l][l + n] / static_cast<double>(tokens));
  }
  return rows;
}

}  // namespace normlab::trainer
