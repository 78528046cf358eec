#include "worker/trainer/model/kernels/cpu_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace normlab::trainer {

extern const CpuKernels<float> kBaselineFloat;

namespace {

std::vector<float> Random(int64_t count, float scale = 1) {
  std::mt19937 generator(static_cast<uint32_t>(count));
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 1e-5 * (1 + std::abs(expected[i])));
}

// Machines differ in which kernels they pick: those that this one does not pick must work all the same.
class BaselineKernelsTest : public ::testing::Test {
 protected:
  const CpuKernels<float>& chosen_ = Kernels<float>();
  const CpuKernels<float>& baseline_ = kBaselineFloat;
};

TEST_F(BaselineKernelsTest, SwiGluEqualsThatOfTheChosenKernels) {
  const int64_t rows = 3, dim = 37;
  const auto run = [&](const CpuKernels<float>& kernels) {
    std::vector<float> gate_up = Random(rows * 2 * dim, 5), output(rows * dim), grad = Random(rows * dim);
    kernels.swiglu({rows, dim, gate_up.data(), output.data()});
    kernels.swiglu_grad({rows, dim, gate_up.data(), grad.data()});
    output.insert(output.end(), gate_up.begin(), gate_up.end());
    output.insert(output.end(), grad.begin(), grad.end());
    return output;
  };
  ExpectNear(run(baseline_), run(chosen_));
}

TEST_F(BaselineKernelsTest, NormEqualsThatOfTheChosenKernels) {
  const int64_t rows = 3, dim = 37;
  const std::vector<float> residual = Random(rows * dim), gain = Random(dim), grad = Random(rows * dim, 2);
  const auto run = [&](const CpuKernels<float>& kernels) {
    std::vector<float> x = Random(rows * dim), y(rows * dim), inv_rms(rows), grad_x(rows * dim), grad_gain(dim);
    const NormWeights<float> norm = {.gain = gain.data(), .output_scale = 0.5, .eps = 1e-6f};
    kernels.norm({.rows = rows,
                  .dim = dim,
                  .residual = residual.data(),
                  .residual_scale = 1.5,
                  .branch = x.data(),
                  .sum = x.data(),
                  .norm = &norm,
                  .output = y.data(),
                  .inv_rms = inv_rms.data()});
    kernels.norm_grad({.rows = rows,
                       .dim = dim,
                       .norm = &norm,
                       .grad_output = grad.data(),
                       .x = x.data(),
                       .inv_rms = inv_rms.data(),
                       .add = residual.data(),
                       .add_scale = 1.5,
                       .grad_x = grad_x.data(),
                       .grad_gain = grad_gain.data()});
    for (const auto* part : {&x, &grad_x, &grad_gain}) y.insert(y.end(), part->begin(), part->end());
    return y;
  };
  ExpectNear(run(baseline_), run(chosen_));
}

TEST_F(BaselineKernelsTest, OtherNormsEqualThoseOfTheChosenKernels) {
  const int64_t rows = 3, dim = 37;
  const std::vector<float> x = Random(rows * dim), gain = Random(dim), bias = Random(dim), grad = Random(rows * dim, 2);
  for (const NormFormula formula : {NormFormula::kLayer, NormFormula::kDyt}) {
    const auto run = [&](const CpuKernels<float>& kernels) {
      const NormWeights<float> norm = {formula, gain.data(), bias.data(), 0.8f, 0.5f, 1e-6f};
      std::vector<float> y(rows * dim), inv_rms(rows), grad_x(rows * dim), grad_gain(dim), grad_bias(dim);
      double grad_alpha = 0;
      kernels.norm(
          {.rows = rows, .dim = dim, .branch = x.data(), .norm = &norm, .output = y.data(), .inv_rms = inv_rms.data()});
      kernels.norm_grad({.rows = rows,
                         .dim = dim,
                         .norm = &norm,
                         .grad_output = grad.data(),
                         .x = x.data(),
                         .inv_rms = inv_rms.data(),
                         .grad_x = grad_x.data(),
                         .grad_gain = grad_gain.data(),
                         .grad_bias = grad_bias.data(),
                         .grad_alpha = &grad_alpha});
      for (const auto* part : {&grad_x, &grad_gain, &grad_bias}) y.insert(y.end(), part->begin(), part->end());
      y.push_back(static_cast<float>(grad_alpha));
      return y;
    };
    ExpectNear(run(baseline_), run(chosen_));
  }
}

TEST_F(BaselineKernelsTest, DytIsTanhAtEveryDistanceFromZero) {
  std::vector<float> x, y(2001), gain(1, 1);
  for (int i = -1000; i <= 1000; ++i) x.push_back(static_cast<float>(i * std::abs(i)) * 2e-5f);
  for (const CpuKernels<float>* kernels : {&chosen_, &baseline_}) {
    const NormWeights<float> norm = {.formula = NormFormula::kDyt, .gain = gain.data(), .alpha = 1};
    kernels->norm({.rows = 2001, .dim = 1, .branch = x.data(), .norm = &norm, .output = y.data()});
    for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(y[i], std::tanh(x[i]), 4e-7 * std::abs(std::tanh(x[i]))) << x[i];
  }
}

TEST_F(BaselineKernelsTest, ARoundedSumHasEightSignificantBitsToTheNearestEven) {
  const std::vector<float> residual = {1.0f, 1.00390625f, 1.01171875f, 3.14159274f, -65504.0f};
  const std::vector<float> expected = {1.0f, 1.0f, 1.015625f, 3.140625f, -65536.0f};
  for (const CpuKernels<float>* kernels : {&chosen_, &baseline_}) {
    std::vector<float> sum(5);
    kernels->norm({.rows = 1,
                   .dim = 5,
                   .residual = residual.data(),
                   .residual_scale = 1,
                   .branch = sum.data(),
                   .rounds_sum = true,
                   .sum = sum.data()});
    for (size_t i = 0; i < sum.size(); ++i) EXPECT_EQ(sum[i], expected[i]);
  }
}

TEST_F(BaselineKernelsTest, AttentionEqualsThatOfTheChosenKernels) {
  const int64_t seq = 21, heads = 2, dim = 10, batch = 2, size = batch * seq * heads * dim;
  const std::vector<float> cosine(seq * dim / 2, 0.6f), sine(seq * dim / 2, 0.8f), qkv = Random(3 * size);
  const std::vector<float> grad_context = Random(size);
  const auto run = [&](const CpuKernels<float>& kernels) {
    std::vector<float> context(size), logsumexp(batch * heads * seq), grad_qkv(3 * size);
    std::vector<float> scratch(AttentionScratchSize(seq, dim));
    const AttentionHeads<float> all = {0,
                                       batch * heads,
                                       seq,
                                       heads,
                                       dim,
                                       cosine.data(),
                                       sine.data(),
                                       qkv.data(),
                                       context.data(),
                                       logsumexp.data(),
                                       scratch.data()};
    kernels.attention(all);
    kernels.attention_grad({all, grad_context.data(), grad_qkv.data()});
    context.insert(context.end(), grad_qkv.begin(), grad_qkv.end());
    return context;
  };
  ExpectNear(run(baseline_), run(chosen_));
}

TEST_F(BaselineKernelsTest, CrossEntropyEqualsThatOfTheChosenKernels) {
  const std::vector<int64_t> targets = {3, 0, 32};
  const auto run = [&](const CpuKernels<float>& kernels) {
    std::vector<float> logits = Random(3 * 33, 10);
    double sum = 0;
    kernels.cross_entropy({3, 33, logits.data(), targets.data(), true, 0.5, &sum});
    logits.push_back(static_cast<float>(sum));
    return logits;
  };
  ExpectNear(run(baseline_), run(chosen_));
}

}  // namespace
}  // namespace normlab::trainer
