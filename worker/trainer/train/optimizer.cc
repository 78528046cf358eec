#include "worker/trainer/train/optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "worker/trainer/model/portable.h"

namespace normlab::trainer {
namespace {

// Small enough that threads end together, large enough that handing one out costs nothing.
constexpr int64_t kChunkElements = 32768;

Rounding RoundingOf(const TrainSpec& train) {
  if (train.param_dtype == "bf16_pure") return Rounding::kAll;
  return train.param_dtype == "fp32_master" ? Rounding::kWeights : Rounding::kNone;
}

at::Tensor PartOf(const at::Tensor& tensor, const ParameterSlice& slice) {
  return tensor.detach().view({-1}).narrow(0, slice.begin, slice.end - slice.begin);
}

float* Slice(const at::Tensor& tensor, int64_t begin) { return tensor.data_ptr<float>() + begin; }

}  // namespace

Adam::Adam(const std::vector<Parameter>& parameters, const TrainSpec& train, int rank, int world_size)
    : parameters_(parameters),
      train_(train),
      is_portable_(!HasOwnKernels(parameters.front().tensor)),
      rounding_(RoundingOf(train)) {
  const bool is_all_narrow = is_portable_ && rounding_ == Rounding::kAll;
  std::vector<int64_t> sizes;
  for (const Parameter& parameter : parameters) sizes.push_back(parameter.tensor.numel());
  for (const ParameterSlice& slice : SlicesOfRank(sizes, rank, world_size)) {
    const int64_t count = slice.end - slice.begin;
    const at::TensorOptions like = parameters[slice.parameter].tensor.options().requires_grad(false);
    const at::TensorOptions options = is_all_narrow ? like : like.dtype(at::kFloat);
    State state{.slice = slice, .exp_avg = at::zeros({count}, options), .exp_avg_sq = at::zeros({count}, options)};
    if (rounding_ == Rounding::kWeights) state.master = at::empty({count}, options);
    for (int64_t begin = 0; begin < count; begin += kChunkElements) {
      chunks_.push_back({.state = states_.size(), .begin = begin, .end = std::min(begin + kChunkElements, count)});
    }
    states_.push_back(std::move(state));
  }
}

void Adam::AdoptWeights() {
  if (rounding_ == Rounding::kNone) return;
  if (is_portable_) {  // The weights are bfloat16 themselves.
    for (const State& state : states_) {
      if (state.master.defined()) state.master.copy_(PartOf(parameters_[state.slice.parameter].tensor, state.slice));
    }
    return;
  }
  for (const State& state : states_) {
    const float* weights = Slice(parameters_[state.slice.parameter].tensor, state.slice.begin);
    if (state.master.defined()) std::copy_n(weights, state.master.numel(), state.master.data_ptr<float>());
  }
  for (const Parameter& parameter : parameters_) RoundToBfloat16(Slice(parameter.tensor, 0), parameter.tensor.numel());
}

void Adam::StepPortably(int64_t step, double lr, double grad_scale) {
  const c10::NoGradGuard no_grad;
  const at::TensorOptions options = states_.front().exp_avg.options().dtype(at::kFloat);
  const at::Tensor step_number = at::full({}, static_cast<double>(step), options);
  // The operation divides by it.
  std::optional<at::Tensor> divisor;
  if (grad_scale != 1) divisor = at::full({}, 1 / grad_scale, options);
  std::vector<at::Tensor> stored, masters;
  for (const bool decays : {false, true}) {
    std::vector<at::Tensor> weights, gradients, exp_avgs, exp_avg_sqs;
    for (const State& state : states_) {
      const Parameter& parameter = parameters_[state.slice.parameter];
      if (parameter.decays != decays) continue;
      const at::Tensor part = PartOf(parameter.tensor, state.slice);
      weights.push_back(state.master.defined() ? state.master : part);
      gradients.push_back(PartOf(parameter.tensor.grad(), state.slice).to(weights.back().scalar_type()));
      exp_avgs.push_back(state.exp_avg);
      exp_avg_sqs.push_back(state.exp_avg_sq);
      if (!state.master.defined()) continue;
      stored.push_back(part);
      masters.push_back(state.master);
    }
    if (weights.empty()) continue;
    const std::vector<at::Tensor> steps(weights.size(), step_number);
    const double decay = decays ? train_.weight_decay : 0;
    if (train_.optimizer == "adamw") {
      at::_fused_adamw_(weights, gradients, exp_avgs, exp_avg_sqs, {}, steps, lr, train_.beta1, train_.beta2, decay,
                        train_.adam_eps, /*amsgrad=*/false, /*maximize=*/false, divisor);
    } else {
      at::_fused_adam_(weights, gradients, exp_avgs, exp_avg_sqs, {}, steps, lr, train_.beta1, train_.beta2, decay,
                       train_.adam_eps, /*amsgrad=*/false, /*maximize=*/false, divisor);
    }
  }
  if (!masters.empty()) at::_foreach_copy_(stored, masters);
}

void Adam::Step(int64_t step, double lr, double grad_scale) {
  if (is_portable_) return StepPortably(step, lr, grad_scale);
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
