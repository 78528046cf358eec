#include "worker/trainer/model/gqa_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "worker/trainer/model/testing/branch_check.h"

namespace normlab::trainer {
namespace {

constexpr int64_t kHidden = 48, kNumHeads = 6, kHeadDim = 8, kSeq = 21, kBatch = 2;

/// Pairs (i, i + 2) of each head's first half, as the released model has them. `x`: [batch, heads, seq, head_dim]
at::Tensor RotateFirstHalf(const at::Tensor& x, double base) {
  const at::Tensor frequency = at::pow(base, -at::arange(kHeadDim / 4, at::kDouble) / (kHeadDim / 4.0));
  const at::Tensor angle = at::outer(at::arange(kSeq, at::kDouble), frequency);
  const at::Tensor a = x.slice(3, 0, 2), b = x.slice(3, 2, 4);
  return at::cat({a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), x.slice(3, 4)}, 3);
}

/// From our order of a head's columns to the released model's: rotated a, c, b, d are columns 0-1, 2-3, 4-5, 6-7 of
/// a, b, c, d.
at::Tensor Reordered(const at::Tensor& x) {
  return at::cat({x.slice(3, 0, 2), x.slice(3, 4, 6), x.slice(3, 2, 4), x.slice(3, 6, 8)}, 3);
}

testing::BranchFormula Formula(const at::Tensor& x, const std::vector<at::Tensor>& p, int64_t num_kv_heads) {
  const auto heads = [&](const at::Tensor& w) {
    const at::Tensor y = at::matmul(x, w.t()).view({kBatch, kSeq, -1, kHeadDim}).transpose(1, 2);
    return y.repeat_interleave(kNumHeads / y.size(1), 1);
  };
  const at::Tensor q = RotateFirstHalf(Reordered(heads(p[0])), 100);
  const at::Tensor k = RotateFirstHalf(Reordered(heads(p[1])), 100);
  EXPECT_EQ(p[1].size(0), num_kv_heads * kHeadDim);
  const at::Tensor future = at::ones({kSeq, kSeq}, at::kBool).triu(1);
  const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(kHeadDim));
  const at::Tensor context = at::matmul(at::softmax(scores.masked_fill(future, -INFINITY), -1), heads(p[2]));
  return {at::matmul(context.transpose(1, 2).reshape({-1, kHidden}), p[3].t()), {}};
}

TEST(GqaAttentionTest, GroupsOfQueriesShareKeyAndValueAndHalfOfEachHeadRotates) {
  for (const int64_t num_kv_heads : {1, 2, 6}) {
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
      const BranchContext context = {.rotary = MakeHalfRotaryTable(kSeq, kHeadDim, 100, dtype)};
      testing::ExpectBranchEquals(
          GqaAttentionBranch(kHidden, kNumHeads, num_kv_heads, dtype), context, kBatch * kSeq, kHidden,
          [&](const at::Tensor& x, const std::vector<at::Tensor>& p) { return Formula(x, p, num_kv_heads); },
          dtype == at::kDouble ? 1e-12 : 5e-6);
    }
  }
}

}  // namespace
}  // namespace normlab::trainer
