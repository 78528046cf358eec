#include "worker/trainer/train/optimizer.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

namespace normlab::trainer {

AdamW::AdamW(const std::vector<Parameter>& parameters, const TrainSpec& train) : train_(train) {
  groups_ = {{.weight_decay = train.weight_decay}, {.weight_decay = 0}};
  for (const Parameter& parameter : parameters) {
    const auto options = parameter.tensor.options().requires_grad(false);
    exp_avgs_.push_back(at::zeros(parameter.tensor.sizes(), options));
    exp_avg_sqs_.push_back(at::zeros(parameter.tensor.sizes(), options));
    Group& group = groups_[parameter.decays ? 0 : 1];
    group.parameters.push_back(parameter.tensor);
    group.exp_avgs.push_back(exp_avgs_.back());
    group.exp_avg_sqs.push_back(exp_avg_sqs_.back());
  }
}

void AdamW::Step(int64_t step, double lr) {
  const c10::AutoGradMode no_grad(false);
  for (const Group& group : groups_) {
    if (group.parameters.empty()) continue;
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& parameter : group.parameters) gradients.push_back(parameter.grad());
    // The kernel only reads the steps, so one tensor serves all parameters.
    const std::vector<at::Tensor> steps(group.parameters.size(), at::full({}, static_cast<double>(step), at::kFloat));
    at::_fused_adamw_(group.parameters, gradients, group.exp_avgs, group.exp_avg_sqs, /*max_exp_avg_sqs=*/{}, steps, lr,
                      train_.beta1, train_.beta2, group.weight_decay, train_.adam_eps, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
}

}  // namespace normlab::trainer
