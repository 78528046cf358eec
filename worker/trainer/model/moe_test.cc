#include "worker/trainer/model/moe.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "worker/trainer/model/testing/branch_check.h"

namespace normlab::trainer {
namespace {

using ::testing::ElementsAre;
using testing::Random;

constexpr int64_t kHidden = 12, kFfnHidden = 20, kExperts = 5, kSeq = 16, kBatch = 5;

BranchContext Context() { return {.rotary = MakeRotaryTable(kSeq, 4, 100, at::kDouble)}; }

MoeBranch::Shape ShapeWith(double capacity_factor, double balance_coefficient = 0.3) {
  return {.hidden = kHidden,
          .ffn_hidden = kFfnHidden,
          .num_experts = kExperts,
          .capacity_factor = capacity_factor,
          .balance_coefficient = balance_coefficient};
}

at::Tensor SwiGlu(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& down) {
  const at::Tensor g = at::matmul(x, gate.t());
  return at::matmul(g * at::sigmoid(g) * at::matmul(x, up.t()), down.t());
}

/// Every expert sees every token; a weight that is zero for most picks.
testing::BranchFormula Formula(const at::Tensor& x, const std::vector<at::Tensor>& p, int64_t capacity) {
  const at::Tensor logits = at::matmul(x, p[0].t());
  const auto [top, chosen] = logits.topk(2, -1);
  const at::Tensor picked = at::one_hot(chosen, kExperts).to(at::kDouble);  // [tokens, 2, experts]
  const at::Tensor is_chosen = picked.sum(1).view({-1, kSeq, kExperts});
  const at::Tensor has_room = (is_chosen.cumsum(1) <= capacity).to(at::kDouble).view({-1, kExperts});
  const at::Tensor weights = (at::softmax(top, -1).unsqueeze(2) * picked).sum(1) * has_room;  // [tokens, experts]
  at::Tensor output = at::zeros_like(x);
  for (int64_t e = 0; e < kExperts; ++e) {
    output = output + weights.select(1, e).unsqueeze(1) * SwiGlu(x, p[1 + 3 * e], p[2 + 3 * e], p[3 + 3 * e]);
  }
  const at::Tensor f = is_chosen.mean(1), m = at::softmax(logits, -1).view({-1, kSeq, kExperts}).mean(1);
  return {output, 0.3 * (f * m).sum(-1).mean() / kExperts};
}

TEST(RoutingTest, CapacityIsTheFactorTimesTheEvenShareRoundedUp) {
  EXPECT_EQ(ExpertCapacity(1.0, 128, 8), 32);
  EXPECT_EQ(ExpertCapacity(1.25, 128, 8), 40);
  EXPECT_EQ(ExpertCapacity(1.1, 100, 10), 22) << "22.000000000000004 in binary";
  EXPECT_EQ(ExpertCapacity(1.0, 10, 8), 3);
  EXPECT_EQ(ExpertCapacity(100, 128, 8), 128);
  EXPECT_EQ(ExpertCapacity(0.001, 128, 8), 1);
}

TEST(RoutingTest, EachSequenceFillsExpertsInOrderAndLaterTokensAreDropped) {
  // Two sequences of three tokens over three experts; the first sends all its tokens to experts 2 and 0.
  const at::Tensor logits = at::tensor({1., 0., 2., 1., 0., 2., 1., 0., 2.,  //
                                        3., 3., 3., 0., 1., 2., 2., 1., 0.})
                                .view({6, 3});
  const Routing routing = Route(logits, 3, 2);
  EXPECT_THAT(routing.experts, ElementsAre(2, 0, 2, 0, 2, 0, /**/ 0, 1, 2, 1, 0, 1));
  EXPECT_EQ(routing.num_dropped, 3);
  EXPECT_THAT(routing.begins, ElementsAre(0, 4, 6, 9));
  EXPECT_THAT(routing.tokens_of, ElementsAre(0, 1, 3, 5, /**/ 3, 4, /**/ 0, 1, 4));
  EXPECT_THAT(routing.rows, ElementsAre(6, 0, 7, 1, kDropped, kDropped, /**/ 2, 4, 8, 5, 3, kDropped));
  EXPECT_THAT(routing.fractions, ElementsAre(1, 0, 1, 2. / 3, 1, 1. / 3));
}

class MoeFormulaTest : public ::testing::TestWithParam<double> {};

TEST_P(MoeFormulaTest, HoldsWithTheBalanceLossAndAllGradients) {
  const int64_t capacity = ExpertCapacity(GetParam(), kSeq, kExperts);
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    testing::ExpectBranchEquals(
        MoeBranch(ShapeWith(GetParam()), dtype), Context(), kBatch * kSeq, kHidden,
        [&](const at::Tensor& x, const std::vector<at::Tensor>& p) { return Formula(x, p, capacity); },
        dtype == at::kDouble ? 1e-12 : 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Capacity, MoeFormulaTest, ::testing::Values(0.2, 1.0, 5.0), [](const auto& info) {
  return info.param < 1 ? "AlmostNone" : info.param == 1 ? "AnEvenShare" : "EnoughForAll";
});

struct Result {
  at::Tensor output;
  std::vector<at::Tensor> gradients;
  double auxiliary_loss;
};

Result RunBranch(const MoeBranch& branch, const at::Tensor& input, const at::Tensor& grad) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  std::unique_ptr<BranchSaved> saved;
  Result result = {.output = branch.Forward(Context(), input, &saved)};
  result.auxiliary_loss = saved->auxiliary_loss.item<double>();
  saved->grad_auxiliary_loss = 1;
  BranchGradient gradient = branch.Backward(Context(), input, std::move(saved), grad, {}, 1);
  result.gradients = std::move(gradient.parameters);
  result.gradients.push_back(gradient.input);
  return result;
}

MoeBranch Filled(const MoeBranch::Shape& shape, at::ScalarType dtype) {
  MoeBranch branch(shape, dtype);
  uint64_t seed = 40;
  for (const at::Tensor& parameter : branch.parameters()) parameter.detach().copy_(Random(parameter.sizes(), ++seed));
  return branch;
}

TEST(MoeTest, SequencesByThemselvesGiveWhatTheyGiveTogetherSoGangsAndMicroBatchesDoToo) {
  const MoeBranch branch = Filled(ShapeWith(0.7), at::kDouble);
  const at::Tensor input = Random({kBatch * kSeq, kHidden}, 1), grad = Random({kBatch * kSeq, kHidden}, 2);
  const Result whole = RunBranch(branch, input, grad);
  double auxiliary_loss = 0;
  std::vector<at::Tensor> sums;
  for (int64_t b = 0; b < kBatch; ++b) {
    const Result part = RunBranch(branch, input.narrow(0, b * kSeq, kSeq), grad.narrow(0, b * kSeq, kSeq));
    EXPECT_TRUE(at::allclose(part.output, whole.output.narrow(0, b * kSeq, kSeq), 1e-12, 1e-12));
    auxiliary_loss += part.auxiliary_loss / kBatch;
    for (size_t i = 1; i + 1 < part.gradients.size(); ++i) {  // All but the router, whose balance loss is a mean.
      if (b == 0) sums.push_back(at::zeros_like(part.gradients[i]));
      sums[i - 1] += part.gradients[i];
    }
  }
  EXPECT_NEAR(auxiliary_loss, whole.auxiliary_loss, 1e-14);
  for (size_t i = 0; i < sums.size(); ++i) EXPECT_TRUE(at::allclose(sums[i], whole.gradients[i + 1], 1e-10, 1e-10));
}

TEST(MoeTest, ALaterTokenChangesNoEarlierOne) {
  const MoeBranch branch = Filled(ShapeWith(0.7), at::kDouble);
  const at::Tensor input = Random({kSeq, kHidden}, 1), grad = Random({kSeq, kHidden}, 2);
  const at::Tensor before = RunBranch(branch, input, grad).output.clone();
  input[kSeq - 4].neg_();
  const at::Tensor after = RunBranch(branch, input, grad).output;
  EXPECT_TRUE(at::equal(after.narrow(0, 0, kSeq - 4), before.narrow(0, 0, kSeq - 4)));
  EXPECT_FALSE(at::equal(after[kSeq - 4], before[kSeq - 4]));
}

TEST(MoeTest, BalancedExpertsHaveABalanceLossOfTwoOverTheSquareOfTheirNumber) {
  MoeBranch branch(ShapeWith(5, 1), at::kDouble);
  for (const at::Tensor& parameter : branch.parameters()) parameter.detach().zero_();
  // All probabilities are 1/5; the choices are not balanced, which a product with equal probabilities does not see.
  const at::Tensor input = Random({kSeq, kHidden}, 1);
  EXPECT_NEAR(RunBranch(branch, input, input).auxiliary_loss, 2.0 / (kExperts * kExperts), 1e-14);
}

TEST(MoeTest, AnExpertThatNobodyChoosesHasAGradientOfZero) {
  MoeBranch branch = Filled(ShapeWith(5), at::kFloat);
  branch.parameters()[0].detach().zero_();
  const at::Tensor input = Random({kSeq, kHidden}, 1).to(at::kFloat);
  const Result result = RunBranch(branch, input, input);
  for (size_t i = 1 + 3 * 2; i < 1 + 3 * kExperts; ++i) {  // Of equal logits the first two are chosen.
    EXPECT_EQ(result.gradients[i].abs().max().item<float>(), 0) << i;
  }
  EXPECT_GT(result.gradients[1].abs().max().item<float>(), 0);
}

TEST(MoeTest, ANanReachesTheOutput) {
  const MoeBranch branch = Filled(ShapeWith(5), at::kFloat);
  at::Tensor input = Random({kSeq, kHidden}, 1).to(at::kFloat);
  input[3][2] = NAN;
  EXPECT_TRUE(at::isnan(RunBranch(branch, input, at::ones_like(input)).output[3]).all().item<bool>());
}

TEST(MoeTest, SeveralThreadsGiveTheSameBitsEachTimeAndTheNumbersOfOne) {
  const MoeBranch branch = Filled(ShapeWith(1), at::kFloat);
  const at::Tensor input = Random({8 * kSeq, kHidden}, 1).to(at::kFloat);
  const auto run = [&](int threads) {
    at::set_num_threads(threads);
    Result result = RunBranch(branch, input, input);
    result.gradients.push_back(result.output);
    for (at::Tensor& tensor : result.gradients) tensor = tensor.flatten();
    return at::cat(result.gradients);
  };
  const at::Tensor one = run(1), four = run(4);
  EXPECT_TRUE(at::equal(run(4), four));
  // The library splits the sum inside a product among threads.
  EXPECT_LT(((four - one).norm() / one.norm()).item<double>(), 1e-6);
  at::set_num_threads(1);
}

}  // namespace
}  // namespace normlab::trainer
