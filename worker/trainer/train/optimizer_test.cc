#include "worker/trainer/train/optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <c10/util/BFloat16.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace normlab::trainer {
namespace {

using ::testing::ElementsAre;

TrainSpec Spec(const std::string& optimizer = "adamw", const std::string& param_dtype = "fp32") {
  return {.beta1 = 0.9,
          .beta2 = 0.95,
          .adam_eps = 1e-8,
          .weight_decay = 0.1,
          .optimizer = optimizer,
          .param_dtype = param_dtype};
}

Parameter Trainable(const at::Tensor& values, bool decays) {
  return {.name = "p", .tensor = values.clone().requires_grad_(), .layer = 0, .decays = decays};
}

Parameter Constant(double value, bool decays) { return Trainable(at::full({3}, value, at::kFloat), decays); }

void SetGradients(const std::vector<Parameter>& parameters, double value) {
  for (const Parameter& p : parameters) p.tensor.mutable_grad() = at::full(p.tensor.sizes(), value, at::kFloat);
}

/// The weight after five updates by the papers' formulas in float64.
double Expected(bool is_decoupled, double decay, const TrainSpec& train) {
  double weight = 2, m = 0, v = 0;
  for (int64_t step = 1; step <= 5; ++step) {
    const double gradient = 0.5 * static_cast<double>(step) + (is_decoupled ? 0 : decay * weight);
    m = train.beta1 * m + (1 - train.beta1) * gradient;
    v = train.beta2 * v + (1 - train.beta2) * gradient * gradient;
    const double m_hat = m / (1 - std::pow(train.beta1, step)), v_hat = v / (1 - std::pow(train.beta2, step));
    if (is_decoupled) weight -= 0.01 * decay * weight;
    weight -= 0.01 * m_hat / (std::sqrt(v_hat) + train.adam_eps);
  }
  return weight;
}

TEST(AdamTest, FollowsThePapersFormulasAndDecaysOnlyWhatDecays) {
  for (const std::string optimizer : {"adamw", "adam"}) {
    const TrainSpec train = Spec(optimizer);
    const std::vector<Parameter> parameters = {Constant(2, true), Constant(2, false)};
    Adam adam(parameters, train, 0, 1);
    for (int64_t step = 1; step <= 5; ++step) {
      SetGradients(parameters, 0.5 * static_cast<double>(step));
      adam.Step(step, 0.01);
    }
    for (const size_t i : {0u, 1u}) {
      const double expected = Expected(optimizer == "adamw", i == 0 ? 0.1 : 0, train);
      EXPECT_NEAR(parameters[i].tensor.data_ptr<float>()[1], expected, 1e-6) << optimizer << " parameter " << i;
    }
  }
}

TEST(AdamTest, TheGradientsScaleIsTheSameAsScaledGradients) {
  const std::vector<Parameter> scaled = {Constant(2, true)}, plain = {Constant(2, true)};
  SetGradients(scaled, 8);
  SetGradients(plain, 2);
  Adam first(scaled, Spec(), 0, 1), second(plain, Spec(), 0, 1);
  first.Step(1, 0.01, 0.25);
  second.Step(1, 0.01);
  EXPECT_TRUE(scaled[0].tensor.equal(plain[0].tensor));
}

TEST(AdamTest, PartsOfRanksTogetherAreTheWholeUpdateBitForBit) {
  const at::Tensor a = at::randn({7, 11}), b = at::randn({40001});
  const std::vector<Parameter> whole = {Trainable(a, true), Trainable(b, false)};
  const std::vector<Parameter> parts = {Trainable(a, true), Trainable(b, false)};
  for (const auto* list : {&whole, &parts}) {
    for (const Parameter& p : *list) p.tensor.mutable_grad() = p.tensor.detach().mul(0.3);
  }
  Adam alone(whole, Spec(), 0, 1);
  alone.Step(1, 0.01);
  for (int rank = 0; rank < 3; ++rank) Adam(parts, Spec(), rank, 3).Step(1, 0.01);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_TRUE(whole[i].tensor.equal(parts[i].tensor)) << i;
}

TEST(AdamTest, AnyNumberOfThreadsGivesTheSameBits) {
  const at::Tensor values = at::randn({200'003});
  std::vector<at::Tensor> results;
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    const std::vector<Parameter> parameters = {Trainable(values, true)};
    parameters[0].tensor.mutable_grad() = values.mul(0.7);
    Adam(parameters, Spec(), 0, 1).Step(1, 0.01);
    results.push_back(parameters[0].tensor.detach());
  }
  EXPECT_TRUE(results[0].equal(results[1]));
}

TEST(AdamTest, Bf16PureStoresNothingThatBfloat16CannotHold) {
  const std::vector<Parameter> parameters = {Trainable(at::randn({100}), true)};
  Adam adam(parameters, Spec("adam", "bf16_pure"), 0, 1);
  adam.AdoptWeights();
  for (int64_t step = 1; step <= 3; ++step) {
    SetGradients(parameters, 0.1);
    adam.Step(step, 0.001);
  }
  for (const at::Tensor& tensor :
       {parameters[0].tensor.detach(), adam.states()[0].exp_avg, adam.states()[0].exp_avg_sq}) {
    EXPECT_TRUE(tensor.equal(tensor.to(at::kBFloat16).to(at::kFloat)));
  }
}

TEST(AdamTest, AGainAtOneIsFrozenInBf16PureAndLearnsWithAMaster) {
  // An update of 1e-3 is below half the spacing of bfloat16 under 1, 0.00195 (arXiv:2502.05795's recipe does this).
  std::vector<float> gains;
  for (const std::string param_dtype : {"bf16_pure", "fp32_master"}) {
    const std::vector<Parameter> parameters = {Constant(1, false)};
    Adam adam(parameters, Spec("adam", param_dtype), 0, 1);
    adam.AdoptWeights();
    for (int64_t step = 1; step <= 10; ++step) {
      SetGradients(parameters, 1);
      adam.Step(step, 1e-3);
    }
    gains.push_back(parameters[0].tensor.data_ptr<float>()[0]);
    if (param_dtype == "fp32_master") {
      EXPECT_NEAR(adam.states()[0].master.data_ptr<float>()[0], 0.99, 1e-5);
    }
  }
  EXPECT_THAT(gains, ElementsAre(1.0f, 0.98828125f));
}

TEST(FlatKernelsTest, RoundsToNearestWithTiesToEven) {
  const float half = 1.0f + 1.0f / 256;  // Between 1 and 1 + 1/128.
  std::vector<float> values = {half, 1 + 3.0f / 256, -half, 1 + 1.1f / 256, 0, 3e38f};
  RoundToBfloat16(values.data(), static_cast<int64_t>(values.size()));
  EXPECT_THAT(values, ElementsAre(1.0f, 1 + 2.0f / 128, -1.0f, 1 + 1.0f / 128, 0.0f, float{c10::BFloat16(3e38f)}));
}

TEST(FlatKernelsTest, SumsSquaresInFloat64) {
  const std::vector<float> values(1003, 0.1f);
  EXPECT_NEAR(SumOfSquares(values.data(), 1003), 1003 * double{0.1f} * double{0.1f}, 1e-12);
}

TEST(ShardsTest, CoverAllElementsOnceInOrder) {
  const std::vector<int64_t> sizes = {5, 1, 10, 3};
  EXPECT_THAT(SlicesOfRank(sizes, 0, 1), ElementsAre(ParameterSlice{0, 0, 5}, ParameterSlice{1, 0, 1},
                                                     ParameterSlice{2, 0, 10}, ParameterSlice{3, 0, 3}));
  EXPECT_THAT(SlicesOfRank(sizes, 0, 2),
              ElementsAre(ParameterSlice{0, 0, 5}, ParameterSlice{1, 0, 1}, ParameterSlice{2, 0, 3}));
  EXPECT_THAT(SlicesOfRank(sizes, 1, 2), ElementsAre(ParameterSlice{2, 3, 10}, ParameterSlice{3, 0, 3}));
  int64_t covered = 0;
  for (int rank = 0; rank < 40; ++rank) {
    for (const ParameterSlice& slice : SlicesOfRank(sizes, rank, 40)) covered += slice.end - slice.begin;
  }
  EXPECT_EQ(covered, 19);
}

}  // namespace
}  // namespace normlab::trainer
