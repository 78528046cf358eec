#include "worker/trainer/train/optimizer.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <cmath>

namespace normlab::trainer {
namespace {

Parameter Constant(double value, bool decays) {
  return {.name = "p", .tensor = at::full({3}, value, at::kFloat).requires_grad_(), .layer = 0, .decays = decays};
}

TEST(AdamWTest, FollowsThePapersFormulaAndDecaysOnlyWhatDecays) {
  const TrainSpec train{.beta1 = 0.9, .beta2 = 0.95, .adam_eps = 1e-8, .weight_decay = 0.1};
  const std::vector<Parameter> parameters = {Constant(2, true), Constant(2, false)};
  AdamW optimizer(parameters, train);
  const double lr = 0.01;
  for (const bool decays : {true, false}) {
    double weight = 2, m = 0, v = 0;
    for (int64_t step = 1; step <= 5; ++step) {
      const double gradient = 0.5 * static_cast<double>(step);
      m = train.beta1 * m + (1 - train.beta1) * gradient;
      v = train.beta2 * v + (1 - train.beta2) * gradient * gradient;
      const double m_hat = m / (1 - std::pow(train.beta1, step)), v_hat = v / (1 - std::pow(train.beta2, step));
      weight -= lr * (decays ? train.weight_decay : 0) * weight;
      weight -= lr * m_hat / (std::sqrt(v_hat) + train.adam_eps);
    }
    const at::Tensor& tensor = parameters[decays ? 0 : 1].tensor;
    if (decays) {
      for (int64_t step = 1; step <= 5; ++step) {
        for (const Parameter& p : parameters)
          p.tensor.mutable_grad() = at::full({3}, 0.5 * static_cast<double>(step), at::kFloat);
        optimizer.Step(step, lr);
      }
    }
    EXPECT_NEAR(tensor.data_ptr<float>()[1], weight, 1e-6) << "decays " << decays;
  }
}

}  // namespace
}  // namespace normlab::trainer
