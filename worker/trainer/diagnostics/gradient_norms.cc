#include "worker/trainer/diagnostics/gradient_norms.h"

#include <ATen/ops/full.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <utility>

namespace normlab::trainer {

GradientNorms::GradientNorms(std::vector<at::Tensor> parameters, int num_layers, int64_t total_targets)
    : parameters_(std::move(parameters)),
      boundary_squares_(static_cast<size_t>(num_layers) + 1, 0.0),
      total_targets_(total_targets) {
  for (at::Tensor& parameter : parameters_) parameter.mutable_grad().reset();
}

void GradientNorms::Add(const BlockStack& stack, const ProbeBatch& batch) {
  const at::AutoGradMode grad(true);
  std::vector<at::Tensor> states = {stack.embed(batch.inputs)};
  for (int layer = 1; layer <= stack.num_layers; ++layer) {
    states.back().retain_grad();
    states.push_back(stack.run_block(layer, states.back(), batch.seq_len()));
  }
  states.back().retain_grad();
  const at::Tensor loss = stack.loss(states.back(), batch.targets);
  const auto targets = static_cast<double>(batch.HasTarget().sum().item<int64_t>());
  loss.backward(at::full({}, targets / static_cast<double>(total_targets_), loss.options().requires_grad(false)));
  for (size_t i = 0; i < states.size(); ++i) {
    boundary_squares_[i] += states[i].grad().to(at::kDouble).square().sum().item<double>();
  }
}

std::vector<double> GradientNorms::OfParameters() const {
  std::vector<double> norms;
  for (const at::Tensor& parameter : parameters_) {
    // A parameter that no batch reached has no gradient.
    norms.push_back(parameter.grad().defined() ? parameter.grad().to(at::kDouble).norm().item<double>() : 0);
  }
  return norms;
}

std::vector<double> GradientNorms::OfBoundaries() const {
  std::vector<double> norms;
  for (const double square : boundary_squares_) norms.push_back(std::sqrt(square));
  return norms;
}

}  // namespace normlab::trainer
