// What the loss does with targets that are none, against plain tensor operations.
#include "worker/trainer/model/head.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

namespace normlab::trainer {
namespace {

class HeadLossTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  at::Tensor Random(at::IntArrayRef shape) {
    return at::randn(shape, at::detail::createCPUGenerator(++seed_), at::kFloat).to(at::kDouble);
  }
  at::Tensor Actual(const at::Tensor& x) { return x.detach().to(GetParam(), false, /*copy=*/true); }

  void ExpectNear(const at::Tensor& actual, const at::Tensor& expected) {
    ASSERT_EQ(actual.sizes(), expected.sizes());
    const double tolerance = GetParam() == at::kDouble ? 1e-12 : 3e-6;
    EXPECT_LT(((actual.to(at::kDouble) - expected).norm() / expected.norm()).item<double>(), tolerance);
  }

 private:
  uint64_t seed_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Types, HeadLossTest, ::testing::Values(at::kDouble, at::kFloat),
                         [](const auto& info) { return info.param == at::kDouble ? "Float64" : "Float32"; });

TEST_P(HeadLossTest, AnIgnoredTargetCountsNeitherInTheLossNorInItsMeanNorInAGradient) {
  const at::Tensor x = Random({67, 12}).requires_grad_(), weight = Random({33, 12}).requires_grad_();
  const at::Tensor gain = Random({12}).requires_grad_();
  at::Tensor targets = at::randint(33, {67}, at::detail::createCPUGenerator(1), at::kLong);
  for (const int64_t row : {0, 5, 31, 32, 66}) targets[row] = kIgnoredTarget;
  const at::Tensor normed = x * (x.square().mean(-1, true) + 1e-6).rsqrt() * gain;
  const at::Tensor expected = at::cross_entropy_loss(at::matmul(normed, weight.t()), targets);  // ignore_index is -100
  expected.backward();

  const at::Tensor actual_x = Actual(x).requires_grad_();
  Head head = {.norm = Norm{.gain = Actual(gain), .output_scale = 1, .eps = 1e-6}, .weight = Actual(weight)};
  head.trainable_norm = {head.norm->gain.detach().requires_grad_()};
  head.trainable_weight = head.weight.detach().requires_grad_();
  const at::Tensor actual = HeadLoss(head, actual_x, targets);
  actual.backward();
  ExpectNear(actual.detach(), expected.detach());
  ExpectNear(actual_x.grad(), x.grad());
  ExpectNear(head.trainable_weight.grad(), weight.grad());
  ExpectNear(head.trainable_norm[0].grad(), gain.grad());
  EXPECT_EQ(actual_x.grad()[32].abs().sum().item<double>(), 0);
}

TEST_P(HeadLossTest, WithoutAnyTargetTheLossIsZeroAndSoIsEveryGradient) {
  const at::Tensor x = Actual(Random({3, 12})).requires_grad_();
  Head head = {.norm = {}, .weight = Actual(Random({33, 12}))};
  head.trainable_weight = head.weight.detach().requires_grad_();
  const at::Tensor loss = HeadLoss(head, x, at::full({3}, kIgnoredTarget, at::kLong));
  loss.backward();
  EXPECT_EQ(loss.item<double>(), 0);
  EXPECT_EQ(x.grad().abs().sum().item<double>(), 0);
  EXPECT_EQ(head.trainable_weight.grad().abs().sum().item<double>(), 0);
}

}  // namespace
}  // namespace normlab::trainer
