// Lightning attention against its recurrence and against the dense mask, in float64 with PyTorch's own gradients.
#include "worker/trainer/model/lightning_attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "worker/trainer/model/lightning_branch.h"
#include "worker/trainer/model/testing/branch_check.h"

namespace normlab::trainer {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using testing::Random;

/// S_t = exp(-s) S_{t-1} + k_t v_t', o_t = S_t' q_t; [batch, heads, seq, head_dim]
at::Tensor Recurrent(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::vector<double>& slopes) {
  std::vector<at::Tensor> heads;
  for (int64_t h = 0; h < q.size(1); ++h) {
    std::vector<at::Tensor> outputs;
    at::Tensor state = at::zeros({q.size(0), q.size(3), q.size(3)}, at::kDouble);
    for (int64_t t = 0; t < q.size(2); ++t) {
      const auto at_t = [&](const at::Tensor& x) { return x.select(1, h).select(1, t); };  // [batch, head_dim]
      state = std::exp(-slopes[h]) * state + at_t(k).unsqueeze(2) * at_t(v).unsqueeze(1);
      outputs.push_back(at::matmul(at_t(q).unsqueeze(1), state).squeeze(1));
    }
    heads.push_back(at::stack(outputs, 1));
  }
  return at::stack(heads, 1);
}

/// ((q k') * D) v with D_rc = exp(-s (r - c)) for r >= c, else 0
at::Tensor Dense(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::vector<double>& slopes) {
  const at::Tensor positions = at::arange(q.size(2), at::kDouble);
  const at::Tensor distance = positions.unsqueeze(1) - positions;  // r - c
  const at::Tensor s = at::tensor(slopes, at::kDouble).view({-1, 1, 1});
  const at::Tensor mask = at::where(distance >= 0, (-s * distance).exp(), at::zeros({}, at::kDouble));
  return at::matmul(at::matmul(q, k.transpose(2, 3)) * mask, v);
}

struct Heads {
  at::Tensor q, k, v, grad;
};

Heads RandomHeads(int64_t batch, int64_t heads, int64_t seq, int64_t head_dim) {
  const std::vector<int64_t> shape = {batch, heads, seq, head_dim};
  return {Random(shape, 1).requires_grad_(), Random(shape, 2).requires_grad_(), Random(shape, 3).requires_grad_(),
          Random(shape, 4)};
}

double RelativeError(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual.to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

TEST(LightningTest, SlopesAreThoseOfThePaperWithTheGlobalLayerFromZero) {
  EXPECT_THAT(LightningSlopes(4, 0, 8),
              ElementsAre(DoubleNear(0.25 * 1.00001, 1e-12), DoubleNear(0.0625 * 1.00001, 1e-12),
                          DoubleNear(0.015625 * 1.00001, 1e-12), DoubleNear(0.00390625 * 1.00001, 1e-12)));
  EXPECT_NEAR(LightningSlopes(8, 6, 8)[0], 0.5 * (1.0 / 7 + 1e-5), 1e-12);
  EXPECT_NEAR(LightningSlopes(8, 7, 8)[0], 0.5e-5, 1e-12) << "the last block hardly forgets";
  EXPECT_NEAR(LightningSlopes(8, 0, 1)[0], 0.5 * 1.00001, 1e-12) << "a single block is a first one";
}

TEST(LightningTest, TheRecurrentAndTheDenseFormAreOneFunction) {
  const Heads x = RandomHeads(2, 3, 37, 6);
  const std::vector<double> slopes = LightningSlopes(3, 1, 8);
  EXPECT_LT(RelativeError(Dense(x.q, x.k, x.v, slopes), Recurrent(x.q, x.k, x.v, slopes)), 1e-14);
}

TEST(LightningTest, EveryChunkSizeGivesTheRecurrenceAndItsGradientAlsoOfRaggedLengths) {
  for (const int64_t seq : {1, 5, 64, 65, 130}) {
    const Heads x = RandomHeads(2, 3, seq, 6);
    const std::vector<double> slopes = LightningSlopes(3, 1, 8);
    const at::Tensor expected = Recurrent(x.q, x.k, x.v, slopes);
    expected.backward(x.grad);
    for (const int64_t chunk : {int64_t{1}, int64_t{16}, int64_t{64}, seq}) {
      for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
        SCOPED_TRACE(::testing::Message() << "seq " << seq << " chunk " << chunk << " " << dtype);
        const double tolerance = dtype == at::kDouble ? 1e-13 : 2e-6;
        const auto actual = [&](const at::Tensor& y) { return y.detach().to(dtype); };
        const LightningDecay decay = MakeLightningDecay(slopes, chunk, dtype);
        LightningSaved saved;
        const at::Tensor output = LightningForward(decay, actual(x.q), actual(x.k), actual(x.v), &saved);
        EXPECT_LT(RelativeError(output, expected.detach()), tolerance);
        const LightningGradient gradient = LightningBackward(decay, saved, actual(x.grad));
        EXPECT_LT(RelativeError(gradient.query, x.q.grad()), tolerance);
        EXPECT_LT(RelativeError(gradient.key, x.k.grad()), tolerance);
        EXPECT_LT(RelativeError(gradient.value, x.v.grad()), tolerance);
      }
    }
  }
}

TEST(LightningTest, AFastDecayOverALongSequenceNeitherOverflowsNorTurnsToNan) {
  const Heads x = RandomHeads(1, 2, 1500, 4);
  const std::vector<double> slopes = {2.0, 1e-6};
  const LightningDecay decay = MakeLightningDecay(slopes, 64, at::kFloat);
  LightningSaved saved;
  const auto actual = [](const at::Tensor& y) { return y.detach().to(at::kFloat); };
  const at::Tensor output = LightningForward(decay, actual(x.q), actual(x.k), actual(x.v), &saved);
  EXPECT_LT(RelativeError(output, Dense(x.q, x.k, x.v, slopes).detach()), 1e-5);
}

TEST(LightningTest, TheNumberOfThreadsChangesNoBit) {
  const Heads x = RandomHeads(3, 4, 200, 16);
  const LightningDecay decay = MakeLightningDecay(LightningSlopes(4, 0, 8), 64, at::kFloat);
  const auto run = [&](int threads) {
    at::set_num_threads(threads);
    const auto actual = [](const at::Tensor& y) { return y.detach().to(at::kFloat); };
    LightningSaved saved;
    const at::Tensor output = LightningForward(decay, actual(x.q), actual(x.k), actual(x.v), &saved);
    const LightningGradient gradient = LightningBackward(decay, saved, actual(x.grad));
    return at::stack({output, gradient.query, gradient.key, gradient.value});
  };
  const at::Tensor one = run(1);
  EXPECT_TRUE(at::equal(run(2), one));
  EXPECT_TRUE(at::equal(run(4), one));
  at::set_num_threads(1);
}

TEST(LightningBranchTest, IsTheGatedNormOfLightningAttentionOverSiluProjections) {
  constexpr int64_t kHidden = 24, kNumHeads = 3, kSeq = 70, kBatch = 2;
  const std::vector<double> slopes = LightningSlopes(kNumHeads, 2, 8);
  const auto formula = [&](const at::Tensor& x, const std::vector<at::Tensor>& p) {
    const auto heads = [&](const at::Tensor& w) {
      const at::Tensor y = at::matmul(x, w.t());
      return (y * at::sigmoid(y)).view({kBatch, kSeq, kNumHeads, kHidden / kNumHeads}).transpose(1, 2);
    };
    const at::Tensor o = Dense(heads(p[0]), heads(p[1]), heads(p[2]), slopes).transpose(1, 2).reshape({-1, kHidden});
    const at::Tensor normed = p[5] * o / (o.pow(2).mean(-1, true) + 1e-3).sqrt();
    return testing::BranchFormula{at::matmul(at::sigmoid(at::matmul(x, p[3].t())) * normed, p[4].t()), {}};
  };
  const BranchContext context = {.rotary = MakeRotaryTable(kSeq, 8, 100, at::kDouble)};
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const LightningBranch branch(
        {.hidden = kHidden, .num_heads = kNumHeads, .layer0 = 2, .num_layers = 8, .norm_eps = 1e-3}, dtype);
    testing::ExpectBranchEquals(branch, context, kBatch * kSeq, kHidden, formula, dtype == at::kDouble ? 1e-12 : 1e-5);
  }
}

}  // namespace
}  // namespace normlab::trainer
