#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "worker/trainer/model/biased_attention.h"
#include "worker/trainer/model/gelu_mlp.h"
#include "worker/trainer/model/testing/branch_check.h"

namespace normlab::trainer {
namespace {

constexpr int64_t kHidden = 24, kNumHeads = 3, kHeadDim = 8, kSeq = 19, kBatch = 4;

TEST(GeluMlpTest, EqualsTheTanhFormulaAndItsGradients) {
  const auto formula = [](const at::Tensor& x, const std::vector<at::Tensor>& p) {
    const at::Tensor u = at::matmul(x, p[0]) + p[1];
    const at::Tensor gelu = 0.5 * u * (1 + at::tanh(std::sqrt(2 / M_PI) * (u + 0.044715 * u.pow(3))));
    return testing::BranchFormula{at::matmul(gelu, p[2]) + p[3], {}};
  };
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    testing::ExpectBranchEquals(GeluMlpBranch(kHidden, 36, dtype), {}, kBatch * kSeq, kHidden, formula,
                                dtype == at::kDouble ? 1e-12 : 3e-6);
  }
}

TEST(BiasedAttentionTest, EqualsTheFormulaWithoutRotationAndItsGradients) {
  const auto formula = [](const at::Tensor& x, const std::vector<at::Tensor>& p) {
    const at::Tensor qkv = (at::matmul(x, p[0]) + p[1]).view({kBatch, kSeq, 3, kNumHeads, kHeadDim});
    const auto heads = [&](int64_t part) { return qkv.select(2, part).transpose(1, 2); };
    const at::Tensor future = at::ones({kSeq, kSeq}, at::kBool).triu(1);
    const at::Tensor scores = at::matmul(heads(0), heads(1).transpose(2, 3)) / std::sqrt(static_cast<double>(kHeadDim));
    const at::Tensor context = at::matmul(at::softmax(scores.masked_fill(future, -INFINITY), -1), heads(2));
    return testing::BranchFormula{at::matmul(context.transpose(1, 2).reshape({-1, kHidden}), p[2]) + p[3], {}};
  };
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    testing::ExpectBranchEquals(BiasedAttentionBranch(kHidden, kNumHeads, dtype),
                                {.rotary = MakeIdentityRotaryTable(kSeq, kHeadDim, dtype)}, kBatch * kSeq, kHidden,
                                formula, dtype == at::kDouble ? 1e-12 : 5e-6);
  }
}

}  // namespace
}  // namespace normlab::trainer
