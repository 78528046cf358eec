// The formulas on cases that can be worked out by hand.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/growth_fit.h"
#include "worker/trainer/data/ignored_target.h"
#include "worker/trainer/diagnostics/angular_distance.h"
#include "worker/trainer/diagnostics/gradient_norms.h"
#include "worker/trainer/diagnostics/jacobian.h"
#include "worker/trainer/diagnostics/layer_removal.h"
#include "worker/trainer/diagnostics/stream_variance.h"

namespace normlab::trainer {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::Pointwise;

at::Tensor Rows(std::initializer_list<std::vector<double>> rows) {
  std::vector<double> values;
  for (const auto& row : rows) values.insert(values.end(), row.begin(), row.end());
  return at::tensor(values, at::kDouble).view({static_cast<int64_t>(rows.size()), -1});
}

/// Two sequences of three positions; the second one has a single target.
ProbeBatch PaddedBatch() {
  const int64_t no = kIgnoredTarget;
  return {.inputs = at::zeros({2, 3}, at::kLong), .targets = at::tensor({1L, 2L, 3L, 4L, no, no}).view({2, 3})};
}

/// Linear blocks: block l maps x to factors[l - 1] * x; the loss is the mean square of x at positions with a target.
BlockStack ScalingStack(std::vector<double> factors, const at::Tensor& embedding) {
  BlockStack stack{.num_layers = static_cast<int>(factors.size())};
  stack.embed = [embedding](const at::Tensor&) { return embedding; };
  stack.run_block = [factors](int layer, const at::Tensor& x, int64_t) { return x * factors[layer - 1]; };
  stack.loss = [](const at::Tensor& x, const at::Tensor& targets) {
    return RowsWhere(x, targets.ne(kIgnoredTarget).reshape({-1})).square().mean();
  };
  return stack;
}

TEST(ProbeBatchTest, KnowsFirstLastAndPadding) {
  const ProbeBatch batch = PaddedBatch();
  EXPECT_TRUE(batch.HasTarget().equal(at::tensor({1, 1, 1, 1, 0, 0}).to(at::kBool)));
  EXPECT_TRUE(batch.IsFirst().equal(at::tensor({1, 0, 0, 1, 0, 0}).to(at::kBool)));
  EXPECT_TRUE(batch.IsLast().equal(at::tensor({0, 0, 1, 1, 0, 0}).to(at::kBool)));
}

TEST(StreamVarianceTest, IsOverHiddenThenOverTokensThatHaveATarget) {
  // Variances 1, 4, 9 and 16; the padding of the second sequence would change everything.
  const at::Tensor x = Rows({{-1, 1}, {0, 4}, {-3, 3}, {-4, 4}, {900, -900}, {77, 0}});
  StreamVariance variance(0);
  variance.Add({x}, PaddedBatch());
  const BoundarySummary summary = variance.Summarize()[0];
  EXPECT_DOUBLE_EQ(summary.all.variance_mean, 7.5);
  EXPECT_DOUBLE_EQ(summary.all.variance_median, 6.5);
  EXPECT_DOUBLE_EQ(summary.all.mean_square, (1 + 8 + 9 + 16) / 4.0);
  EXPECT_DOUBLE_EQ(summary.all.max_abs, 4);
  EXPECT_EQ(summary.all.tokens, 4);
  EXPECT_DOUBLE_EQ(summary.without_first.variance_mean, 6.5);
  EXPECT_DOUBLE_EQ(summary.without_first.variance_median, 6.5);
  EXPECT_EQ(summary.without_first.tokens, 2);
}

TEST(StreamVarianceTest, BatchesAddUp) {
  const at::Tensor x = Rows({{-1, 1}, {0, 4}, {-3, 3}, {-4, 4}, {0, 0}, {0, 0}});
  StreamVariance once(0), twice(0);
  once.Add({x}, PaddedBatch());
  twice.Add({x}, PaddedBatch());
  twice.Add({x}, PaddedBatch());
  EXPECT_DOUBLE_EQ(twice.Summarize()[0].all.variance_mean, once.Summarize()[0].all.variance_mean);
  EXPECT_EQ(twice.Summarize()[0].all.tokens, 8);
}

TEST(AngularDistanceTest, IsTheAngleInHalfTurns) {
  const ProbeBatch batch{.inputs = at::zeros({1, 2}, at::kLong), .targets = at::zeros({1, 2}, at::kLong)};
  // Token 1 turns by 90 degrees and then by 45 more; token 2 keeps its direction and is then reversed.
  const std::vector<at::Tensor> states = {Rows({{1, 0}, {1, 1}}), Rows({{0, 2}, {3, 3}}), Rows({{-5, 5}, {-1, -1}})};
  AngularDistance distance(2);
  distance.Add(states, batch);
  const auto all = distance.AllPositions();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_THAT(all[0], ElementsAre(DoubleNear(0.25, 1e-7), DoubleNear((0.75 + 1) / 2, 1e-7)));
  EXPECT_THAT(all[1], ElementsAre(DoubleNear((0.25 + 1) / 2, 1e-7)));
  EXPECT_THAT(distance.LastPosition()[0], ElementsAre(DoubleNear(0, 1e-7), DoubleNear(1, 1e-7)));
}

TEST(AngularDistanceTest, ManyTokensAreTakenInChunks) {
  const int64_t tokens = 5000, hidden = 512;
  const ProbeBatch batch{.inputs = at::zeros({1, tokens}, at::kLong), .targets = at::zeros({1, tokens}, at::kLong)};
  at::Tensor orthogonal = at::zeros({tokens, hidden});
  orthogonal.select(1, 0).fill_(1);
  at::Tensor other = at::zeros({tokens, hidden});
  other.select(1, 1).fill_(1);
  AngularDistance distance(1);
  distance.Add({orthogonal, other}, batch);
  EXPECT_NEAR(distance.AllPositions()[0][0], 0.5, 1e-12);
}

TEST(LayerRemovalTest, LeavesTheOtherBlocksAsTheyAre) {
  const at::Tensor x = Rows({{1, 1}, {1, 1}, {1, 1}, {1, 1}, {9, 9}, {9, 9}});
  const ProbeBatch batch = PaddedBatch();
  // The loss is the square of the product of the factors of those that are there.
  const BlockStack stack = ScalingStack({2, 3, 5}, x);
  LayerRemoval removal(3);
  removal.Add(stack, StreamStates(stack, batch), batch);
  removal.Add(stack, StreamStates(stack, batch), batch);
  EXPECT_DOUBLE_EQ(removal.Loss(), 900);
  EXPECT_DOUBLE_EQ(removal.LossWithout(1), 225);
  EXPECT_DOUBLE_EQ(removal.LossWithout(2), 100);
  EXPECT_DOUBLE_EQ(removal.LossWithout(3), 36);
}

TEST(JacobianTest, OfAMultipleOfTheIdentityIsExact) {
  const at::Tensor x = Rows({{1, 2}, {3, 4}, {5, 6}, {7, 8}, {9, 10}, {11, 12}});
  const BlockStack stack = ScalingStack({1, 3, 0.5}, x);
  const auto distances = JacobianIdentityDistances(stack, PaddedBatch(), {.tokens = 4, .probes = 2});
  ASSERT_EQ(distances.size(), 3u);
  EXPECT_NEAR(distances[0].mean, 0, 1e-12);
  EXPECT_NEAR(distances[1].mean, 4, 1e-12);
  EXPECT_NEAR(distances[1].median, 4, 1e-12);
  EXPECT_NEAR(distances[2].mean, 0.25, 1e-12);
}

TEST(JacobianTest, IsTheSquaredFrobeniusNormPerColumnInTheMean) {
  const int64_t hidden = 8;
  const at::Tensor matrix = at::eye(hidden, at::kDouble) + 0.1 * at::arange(64).to(at::kDouble).view({8, 8}) / 8;
  const ProbeBatch batch{.inputs = at::zeros({64, 1}, at::kLong), .targets = at::zeros({64, 1}, at::kLong)};
  BlockStack stack = ScalingStack({1}, at::full({64, hidden}, 1.0, at::kDouble));
  stack.run_block = [matrix](int, const at::Tensor& y, int64_t) { return y.matmul(matrix.t()); };
  const double expected =
      (matrix - at::eye(hidden, at::kDouble)).square().sum().item<double>() / static_cast<double>(hidden);
  const auto distances = JacobianIdentityDistances(stack, batch, {.tokens = 64, .probes = 64});
  EXPECT_NEAR(distances[0].mean, expected, 0.05 * expected);
}

TEST(JacobianTest, TakesNothingFromOtherPositions) {
  // y_t = x_t + sum of all x_s of the sequence before t: the same-token Jacobian is the identity.
  BlockStack stack = ScalingStack({1}, at::full({6, 4}, 1.0, at::kDouble));
  stack.run_block = [](int, const at::Tensor& x, int64_t seq_len) {
    return x.view({-1, seq_len, 4}).cumsum(1).view({-1, 4});
  };
  const auto distances = JacobianIdentityDistances(stack, PaddedBatch(), {.tokens = 8, .probes = 2});
  EXPECT_NEAR(distances[0].mean, 0, 1e-12);
}

TEST(JacobianTest, EveryPositionHasItsTurnBeforeOneHasASecond) {
  // The factor of a token is its value: 1 to 4 have a target, and I is (factor - 1)^2.
  const at::Tensor factors = at::tensor({1.0, 2.0, 3.0, 4.0, 50.0, 60.0}, at::kDouble).view({6, 1});
  BlockStack stack = ScalingStack({1}, at::full({6, 2}, 1.0, at::kDouble));
  stack.run_block = [factors](int, const at::Tensor& x, int64_t) { return x * factors; };
  const ProbeBatch batch{.inputs = at::zeros({1, 6}, at::kLong),
                         .targets = at::tensor({0L, 0L, 0L, 0L, kIgnoredTarget, kIgnoredTarget}).view({1, 6})};
  const auto distances = JacobianIdentityDistances(stack, batch, {.tokens = 4, .probes = 1});
  EXPECT_NEAR(distances[0].mean, (0 + 1 + 4 + 9) / 4.0, 1e-12);
  EXPECT_NEAR(distances[0].median, 2.5, 1e-12);
}

TEST(GradientNormsTest, AreOfTheMeanOverAllBatches) {
  const at::Tensor weight = at::full({1}, 2.0, at::kDouble).requires_grad_();
  BlockStack stack = ScalingStack({1, 3}, at::Tensor());
  stack.embed = [weight](const at::Tensor& inputs) { return weight.expand({inputs.numel(), 1}); };
  const ProbeBatch batch = PaddedBatch();
  GradientNorms norms({weight}, 2, /*total_targets=*/8);
  norms.Add(stack, batch);
  norms.Add(stack, batch);
  // loss = (3 w)^2, so dloss/dw = 18 w = 36. At the end dloss/dx is 2 x / 4 at each of the four positions of a batch,
  // half of that since two batches count: 1.5 each over eight positions.
  EXPECT_THAT(norms.OfParameters(), ElementsAre(DoubleNear(36, 1e-9)));
  const double last = 1.5 * std::sqrt(8);
  EXPECT_THAT(norms.OfBoundaries(), Pointwise(DoubleNear(1e-9), std::vector<double>{3 * last, 3 * last, last}));
}

TEST(GrowthFitTest, FindsThePowerAndTheRate) {
  std::vector<double> power, exponential;
  for (int layer = 1; layer <= 12; ++layer) {
    power.push_back(0.3 * std::pow(layer, 1.7));
    exponential.push_back(0.3 * std::exp(0.25 * layer));
  }
  const auto of_power = FitGrowth(power), of_exponential = FitGrowth(exponential);
  ASSERT_TRUE(of_power && of_exponential);
  EXPECT_NEAR(of_power->power.c, 0.3, 1e-12);
  EXPECT_NEAR(of_power->power.rate, 1.7, 1e-12);
  EXPECT_NEAR(of_power->power.r_squared, 1, 1e-12);
  EXPECT_LT(of_power->exponential.r_squared, 0.95);
  EXPECT_NEAR(of_exponential->exponential.rate, 0.25, 1e-12);
  EXPECT_NEAR(of_exponential->exponential.r_squared, 1, 1e-12);
  EXPECT_LT(of_exponential->power.r_squared, 0.95);
}

TEST(GrowthFitTest, NeedsTwoPositiveNumbers) {
  EXPECT_FALSE(FitGrowth({1}));
  EXPECT_FALSE(FitGrowth({1, 0}));
  EXPECT_FALSE(FitGrowth({1, NAN}));
  EXPECT_DOUBLE_EQ(FitGrowth({2, 2, 2})->power.r_squared, 1);
}

}  // namespace
}  // namespace normlab::trainer
