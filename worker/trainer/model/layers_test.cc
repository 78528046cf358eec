// Each layer with a gradient of its own against plain tensor operations, float64 and float32, in shapes that are no
// multiple of any tile.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>

#include "worker/trainer/model/attention.h"
#include "worker/trainer/model/head.h"
#include "worker/trainer/model/mlp.h"
#include "worker/trainer/model/norm.h"

namespace normlab::trainer {
namespace {

class LayerTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  /// The same float64 numbers whatever the type under test, exactly representable in it.
  at::Tensor Random(at::IntArrayRef shape, double scale = 1) {
    return (at::randn(shape, at::detail::createCPUGenerator(++seed_), at::kFloat) * scale).to(at::kDouble);
  }
  at::Tensor Actual(const at::Tensor& x) { return x.detach().to(GetParam(), false, /*copy=*/true); }

  void ExpectNear(const at::Tensor& actual, const at::Tensor& expected) {
    ASSERT_EQ(actual.sizes(), expected.sizes());
    const double tolerance = GetParam() == at::kDouble ? 1e-12 : 3e-6;
    EXPECT_LT(((actual.to(at::kDouble) - expected).norm() / expected.norm()).item<double>(), tolerance);
  }

  static void Assign(const Branch& branch, const std::vector<at::Tensor>& values) {
    ASSERT_EQ(branch.parameters().size(), values.size());
    for (size_t i = 0; i < values.size(); ++i) branch.parameters()[i].detach().copy_(values[i].detach());
  }

 private:
  uint64_t seed_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Types, LayerTest, ::testing::Values(at::kDouble, at::kFloat),
                         [](const auto& info) { return info.param == at::kDouble ? "Float64" : "Float32"; });

TEST_P(LayerTest, NormOfASumAndItsGradientEqualTheFormula) {
  const at::Tensor residual = Random({67, 43}).requires_grad_(), branch = Random({67, 43}).requires_grad_();
  const at::Tensor gain = Random({43}).requires_grad_(), grad = Random({67, 43}), add = Random({67, 43});
  const at::Tensor sum = 1.7 * residual + branch;
  sum.retain_grad();
  const at::Tensor expected = 0.4 * gain * sum / (sum.pow(2).mean(-1, true) + 1e-3).sqrt();
  expected.backward(grad);

  const Norm norm = {.gain = Actual(gain), .output_scale = 0.4, .eps = 1e-3};
  const at::Tensor actual_sum = Actual(branch);
  TokenStats branch_stats, stats;
  const NormResult actual =
      AddAndNorm(&norm, {.residual = Actual(residual), .residual_scale = 1.7, .branch = actual_sum}, actual_sum,
                 {.branch = &branch_stats, .output = &stats});
  ExpectNear(actual_sum, sum.detach());
  ExpectNear(actual.output, expected.detach());
  EXPECT_NEAR(branch_stats.mean_square, branch.pow(2).mean().item<double>(), 1e-6);
  EXPECT_NEAR(branch_stats.variance, branch.var(-1, false).mean().item<double>(), 1e-6);
  EXPECT_NEAR(stats.variance, expected.var(-1, false).mean().item<double>(), 1e-6);
  EXPECT_NEAR(stats.variance_median, expected.var(-1, false).median().item<double>(), 1e-6);
  EXPECT_NEAR(stats.mean_square, expected.pow(2).mean().item<double>(), 1e-6);
  EXPECT_NEAR(stats.max_abs, expected.abs().max().item<double>(), 1e-5);

  const NormGradient gradient = NormBackward(norm, Actual(grad), actual_sum, actual.inv_rms);
  ExpectNear(gradient.x, sum.grad());
  ExpectNear(gradient.parameters.at(0), gain.grad());
  ExpectNear(NormBackward(norm, Actual(grad), actual_sum, actual.inv_rms, Actual(add), 0.7).x, sum.grad() + 0.7 * add);
}

TEST_P(LayerTest, VarianceOfAStreamWithALargeMeanKeepsItsDigits) {
  const at::Tensor residual = Random({9, 40}) + 1000;
  const at::Tensor branch = Actual(at::zeros({9, 40}, at::kDouble));
  TokenStats stats;
  AddAndNorm(nullptr, {.residual = Actual(residual), .branch = branch}, branch, {.output = &stats});
  const double expected = residual.to(GetParam()).to(at::kDouble).var(-1, false).mean().item<double>();
  EXPECT_NEAR(stats.variance, expected, 1e-3 * expected);
}

TEST_P(LayerTest, StatisticsOfAStreamThatIsNoNumberAreNone) {
  const at::Tensor residual = Random({200, 40});
  residual.slice(0, 0, 200, 3).fill_(NAN);
  const at::Tensor branch = Actual(at::zeros({200, 40}, at::kDouble));
  TokenStats stats;
  AddAndNorm(nullptr, {.residual = Actual(residual), .branch = branch}, branch, {.output = &stats});
  EXPECT_TRUE(std::isnan(stats.variance));
  EXPECT_TRUE(std::isnan(stats.variance_median));
}

TEST_P(LayerTest, SwiGluAndItsGradientEqualTheFormulaAlsoFarFromZero) {
  const at::Tensor x = Random({67, 12}).requires_grad_(), add = Random({67, 12}), grad = Random({67, 12});
  const at::Tensor gate_up = Random({2 * 21, 12}, 12).requires_grad_(), down = Random({12, 21}).requires_grad_();
  const at::Tensor gate = at::matmul(x, gate_up.slice(0, 0, 21).t()), up = at::matmul(x, gate_up.slice(0, 21).t());
  EXPECT_GT(gate.abs().max().item<double>(), 90);  // Where exp leaves the range of float32.
  const at::Tensor expected = at::matmul(gate / (1 + (-gate).exp()) * up, down.t());
  expected.backward(grad);

  const SwiGluBranch branch(12, 21, GetParam());
  Assign(branch, {gate_up.slice(0, 0, 21), gate_up.slice(0, 21), down});
  std::unique_ptr<BranchSaved> saved;
  ExpectNear(branch.Forward({}, Actual(x), &saved), expected.detach());
  const BranchGradient gradient =
      branch.Backward({}, Actual(x), std::move(saved), Actual(grad), Actual(add), /*add_scale=*/0.5);
  ExpectNear(gradient.input, x.grad() + 0.5 * add);
  ExpectNear(at::cat({gradient.parameters.at(0), gradient.parameters.at(1)}), gate_up.grad());
  ExpectNear(gradient.parameters.at(2), down.grad());
}

struct AttentionShape {
  int64_t batch, seq, heads, head_dim;
};

TEST_P(LayerTest, AttentionAndItsGradientEqualTheFormulaInOddShapes) {
  for (const auto& [batch, seq, heads, head_dim] :
       {AttentionShape{1, 1, 1, 2}, {2, 3, 2, 6}, {2, 16, 1, 16}, {1, 33, 3, 20}, {1, 70, 1, 34}}) {
    SCOPED_TRACE(seq);
    const int64_t hidden = heads * head_dim, tokens = batch * seq;
    const at::Tensor x = Random({tokens, hidden}).requires_grad_(), add = Random({tokens, hidden});
    const at::Tensor qkv = Random({3 * hidden, hidden}, 0.5).requires_grad_(), grad = Random({tokens, hidden});
    const at::Tensor output = Random({hidden, hidden}).requires_grad_();
    const RotaryTable rotary = MakeRotaryTable(seq, head_dim, 100, at::kDouble);

    const auto part = [&](int64_t which) {
      return at::matmul(x, qkv.slice(0, which * hidden, (which + 1) * hidden).t())
          .view({batch, seq, heads, head_dim})
          .transpose(1, 2);
    };
    const auto rotate = [&](const at::Tensor& y) {
      const at::Tensor a = y.slice(3, 0, head_dim / 2), b = y.slice(3, head_dim / 2);
      return at::cat({a * rotary.cosine - b * rotary.sine, b * rotary.cosine + a * rotary.sine}, 3);
    };
    const at::Tensor scores = at::matmul(rotate(part(0)), rotate(part(1)).transpose(2, 3)) / std::sqrt(head_dim);
    const at::Tensor future = at::ones({seq, seq}, at::kBool).triu(1);
    const at::Tensor context = at::matmul(at::softmax(scores.masked_fill(future, -INFINITY), -1), part(2));
    const at::Tensor expected = at::matmul(context.transpose(1, 2).reshape({tokens, hidden}), output.t());
    expected.backward(grad);

    const AttentionBranch branch(hidden, heads, GetParam());
    Assign(branch, {qkv.slice(0, 0, hidden), qkv.slice(0, hidden, 2 * hidden), qkv.slice(0, 2 * hidden), output});
    const BranchContext shared = {.rotary = {Actual(rotary.cosine), Actual(rotary.sine)}};
    std::unique_ptr<BranchSaved> saved;
    ExpectNear(branch.Forward(shared, Actual(x), &saved), expected.detach());
    const BranchGradient gradient =
        branch.Backward(shared, Actual(x), std::move(saved), Actual(grad), Actual(add), /*add_scale=*/2);
    ExpectNear(gradient.input, x.grad() + 2 * add);
    const std::vector<at::Tensor>& gradients = gradient.parameters;
    ExpectNear(at::cat({gradients.at(0), gradients.at(1), gradients.at(2)}), qkv.grad());
    ExpectNear(gradients.at(3), output.grad());
  }
}

TEST_P(LayerTest, CrossEntropyAndItsGradientEqualTheFormulaAlsoForSureModels) {
  const at::Tensor x = Random({67, 12}).requires_grad_(), weight = Random({33, 12}, 20).requires_grad_();
  const at::Tensor targets = at::randint(33, {67}, at::detail::createCPUGenerator(1), at::kLong);
  const at::Tensor log_probabilities = at::log_softmax(at::matmul(x, weight.t()), -1);
  EXPECT_LT(log_probabilities.min().item<double>(), -90);  // Where exp leaves the range of float32.
  const at::Tensor expected = -log_probabilities.gather(1, targets.unsqueeze(1)).mean();
  expected.backward();

  const at::Tensor actual_x = Actual(x).requires_grad_();
  Head head = {.norm = {}, .weight = Actual(weight)};
  head.trainable_weight = head.weight.detach().requires_grad_();
  const at::Tensor actual = HeadLoss(head, actual_x, targets);
  actual.backward();
  ExpectNear(actual.detach(), expected.detach());
  ExpectNear(actual_x.grad(), x.grad());
  ExpectNear(head.trainable_weight.grad(), weight.grad());
}

TEST_P(LayerTest, ANanAnywhereReachesTheLoss) {
  Head head = {.norm = {}, .weight = Actual(Random({33, 12}))};
  head.trainable_weight = head.weight.detach().requires_grad_();
  const at::Tensor targets = at::zeros({67}, at::kLong);
  at::Tensor x = Actual(Random({67, 12}));
  x[66][3] = NAN;
  EXPECT_TRUE(std::isnan(HeadLoss(head, x, targets).item<double>()));
}

}  // namespace
}  // namespace normlab::trainer
