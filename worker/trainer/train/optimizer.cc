#include "worker/trainer/train/optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace normlab::trainer {
namespace {

// Small enough that threads end together, large enough that handing one out costs nothing.
constexpr int64_t kChunkElements = 32768;

Rounding RoundingOf(const TrainSpec& train) {
  if (train.param_dtype == "bf16_pure") return Rounding::kAll;
  return train.param_dtype == "fp32_master" ? Rounding::kWeights : Rounding::kNone;
}

float* Slice(const at::Tensor& tensor, int64_t begin) { return tensor.data_ptr<float>() + begin; }

}  // namespace

Adam::Adam(const std::vector<Parameter>& parameters, const TrainSpec& train, int rank, int world_size)
    : parameters_(parameters), train_(train), rounding_(RoundingOf(train)) {
  std::vector<int64_t> sizes;
  for (const Parameter& parameter : parameters) sizes.push_back(parameter.tensor.numel());
  for (const ParameterSlice& slice : SlicesOfRank(sizes, rank, world_size)) {
    const int64_t count = slice.end - slice.begin;
    State state{
        .slice = slice, .exp_avg = at::zeros({count}, at::kFloat), .exp_avg_sq = at::zeros({count}, at::kFloat)};
    if (rounding_ == Rounding::kWeights) state.master = at::empty({count}, at::kFloat);
    for (int64_t begin = 0; begin < count; begin += kChunkElements) {
      chunks_.push_back({.state = states_.size(), .begin = begin, .end = std::min(begin + kChunkElements, count)});
    }
    states_.push_back(std::move(state));
  }
}

void Adam::AdoptWeights() {
  if (rounding_ == Rounding::kNone) return;
  for (const State& state : states_) {
    const float* weights = Slice(parameters_[state.slice.parameter].tensor, state.slice.begin);
    if (state.master.defined()) std::copy_n(weights, state.master.numel(), state.master.data_ptr<float>());
  }
  for (const Parameter& parameter : parameters_) RoundToBfloat16(Slice(parameter.tensor, 0), parameter.tensor.numel());
}

void Adam::Step(int64_t step, double lr, double grad_scale) {
  const bool is_decoupled = train_.optimizer == "adamw";
  const double correction1 = 1 - std::pow(train_.beta1, static_cast<double>(step));
  const double correction2 = 1 - std::pow(train_.beta2, static_cast<double>(step));
  const AdamRange all{.grad_scale = static_cast<float>(grad_scale),
                      .beta1 = static_cast<float>(train_.beta1),
                      .beta2 = static_cast<float>(train_.beta2),
                      .step_size = static_cast<float>(lr / correction1),
                      .root_correction = static_cast<float>(std::sqrt(correction2)),
                      .eps = static_cast<float>(train_.adam_eps),
                      .rounding = rounding_};
  at::parallel_for(0, static_cast<int64_t>(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Chunk& chunk = chunks_[static_cast<size_t>(i)];
      const State& state = states_[chunk.state];
      const Parameter& parameter = parameters_[state.slice.parameter];
      const double decay = parameter.decays ? train_.weight_decay : 0;
      AdamRange range = all;
      range.count = chunk.end - chunk.begin;
      range.weights = Slice(parameter.tensor, state.slice.begin + chunk.begin);
      range.master = state.master.defined() ? Slice(state.master, chunk.begin) : nullptr;
      range.gradients = Slice(parameter.tensor.grad(), state.slice.begin + chunk.begin);
      range.exp_avg = Slice(state.exp_avg, chunk.begin);
      range.exp_avg_sq = Slice(state.exp_avg_sq, chunk.begin);
      range.l2 = is_decoupled ? 0 : static_cast<float>(decay);
      range.weight_factor = is_decoupled ? static_cast<float>(1 - lr * decay) : 1;
      AdamUpdate(range);
    }
  });
}

}  // namespace normlab::trainer
