// The very bodies that run on the GPU, on an emulated grid, against the CPU kernels in float64: every plan, widths with
// tails, rows that end inside a block, addresses that allow no wide load.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "worker/trainer/cuda/cross_entropy_kernel.h"
#include "worker/trainer/cuda/norm_kernel.h"
#include "worker/trainer/cuda/row_plan.h"
#include "worker/trainer/cuda/swiglu_kernel.h"
#include "worker/trainer/cuda/testing/emulated_grid.h"

namespace normlab::trainer::cuda {
namespace {

/// Elements in memory that begins at a multiple of 16 bytes, or one element behind it.
template <typename T>
class Array {
 public:
  explicit Array(size_t size, bool is_aligned = true)
      : size_(size), memory_(new (std::align_val_t(kPackBytes)) T[size + 1]()), first_(is_aligned ? 0 : 1) {}
  Array(const std::vector<double>& values, bool is_aligned) : Array(values.size(), is_aligned) {
    for (size_t i = 0; i < size_; ++i) data()[i] = FromFloat<T>(static_cast<float>(values[i]));
  }

  T* data() { return memory_.get() + first_; }
  std::vector<double> values() {
    std::vector<double> values(size_);
    for (size_t i = 0; i < size_; ++i) values[i] = ToFloat(data()[i]);
    return values;
  }

 private:
  struct Free {
    void operator()(T* memory) const { operator delete[](memory, std::align_val_t(kPackBytes)); }
  };
  size_t size_;
  std::unique_ptr<T[], Free> memory_;
  size_t first_;
};

constexpr int kMultiprocessors = 1;  // Few, so that blocks go on from row to row.

template <typename T>
constexpr double kTolerance = sizeof(T) == 2 ? 6e-3 : 3e-6;  // Of the largest number; bfloat16 has 8 bits.

void ExpectNear(const std::vector<double>& actual, const std::vector<double>& expected, double tolerance,
                const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], tolerance * (largest + 1e-30)) << what << " at " << i;
  }
}

template <typename T>
class CudaKernelsTest : public ::testing::Test {
 protected:
  /// Numbers that T holds exactly.
  std::vector<double> Random(size_t size, double scale = 1) {
    std::normal_distribution<float> normal(0, static_cast<float>(scale));
    std::vector<double> values(size);
    for (double& value : values) value = ToFloat(FromFloat<T>(normal(generator_)));
    return values;
  }

  std::mt19937 generator_{7};
};

using ElementTypes = ::testing::Types<float, Bfloat16>;
TYPED_TEST_SUITE(CudaKernelsTest, ElementTypes);

struct NormCase {
  int64_t rows;
  int width;
  NormFormula formula = NormFormula::kRms;
  bool has_bias = false;
  bool is_aligned = true;
  bool has_residual = true;
  bool has_branch_gain = false;
  bool has_norm = true;

  std::string Name() const {
    return "rows " + std::to_string(rows) + " width " + std::to_string(width) + " formula " +
           std::to_string(static_cast<int>(formula)) + " bias " + std::to_string(has_bias) + " aligned " +
           std::to_string(is_aligned);
  }
};

const std::vector<NormCase>& NormCases() {
  static const std::vector<NormCase> cases = {
      {.rows = 5, .width = 3},
      {.rows = 9, .width = 8, .formula = NormFormula::kLayer, .has_bias = true},
      {.rows = 6, .width = 43, .formula = NormFormula::kLayer},
      {.rows = 7, .width = 512, .has_branch_gain = true},
      {.rows = 6, .width = 512, .formula = NormFormula::kDyt, .has_bias = true},
      {.rows = 5, .width = 768},
      {.rows = 3, .width = 768, .is_aligned = false},
      {.rows = 4, .width = 1000, .formula = NormFormula::kLayer, .has_bias = true},
      {.rows = 3, .width = 1024, .has_residual = false},
      {.rows = 3, .width = 1032, .formula = NormFormula::kDyt},
      {.rows = 3, .width = 1536, .has_norm = false},
      {.rows = 2, .width = 2048},
      {.rows = 2, .width = 2048, .formula = NormFormula::kLayer, .has_bias = true, .is_aligned = false},
      {.rows = 1, .width = 4096},
      {.rows = 1, .width = 8191},
      {.rows = 2, .width = 8192},
  };
  return cases;
}

TYPED_TEST(CudaKernelsTest, NormForwardEqualsTheCpuKernelOnEveryPlan) {
  using T = TypeParam;
  for (const NormCase& c : NormCases()) {
    SCOPED_TRACE(c.Name());
    const size_t size = static_cast<size_t>(c.rows) * c.width, dim = c.width;
    const std::vector<double> residual = this->Random(size), branch = this->Random(size, 0.5);
    const std::vector<double> gain = this->Random(dim), bias = this->Random(dim), branch_gain = this->Random(dim);
    const double alpha = 0.75, residual_scale = 1.5, branch_scale = 0.5, sum_scale = 0.25, output_scale = 0.4;

    std::vector<double> sum(size), output(size), inv_rms(c.rows);
    std::vector<RowStats> branch_stats(c.rows), stream_stats(c.rows);
    const NormWeights<double> weights = {c.formula, gain.data(),  c.has_bias ? bias.data() : nullptr,
                                         alpha,     output_scale, 1e-5};
    Kernels<double>().norm({.rows = c.rows,
                            .dim = c.width,
                            .residual = c.has_residual ? residual.data() : nullptr,
                            .residual_scale = residual_scale,
                            .branch = branch.data(),
                            .branch_scale = branch_scale,
                            .branch_gain = c.has_branch_gain ? branch_gain.data() : nullptr,
                            .sum_scale = sum_scale,
                            .sum = sum.data(),
                            .norm = c.has_norm ? &weights : nullptr,
                            .output = output.data(),
                            .inv_rms = inv_rms.data(),
                            .branch_stats = branch_stats.data(),
                            .stream_stats = stream_stats.data()});

    Array<T> residual_of_t(residual, c.is_aligned), gain_of_t(gain, true), bias_of_t(bias, true);
    Array<T> branch_gain_of_t(branch_gain, true), alpha_of_t(std::vector<double>{alpha}, true);
    std::vector<std::vector<double>> results[2];
    for (const uint32_t seed : {1u, 2u}) {
      Array<T> branch_of_t(branch, c.is_aligned), output_of_t(size, c.is_aligned);
      Array<float> inv(c.rows), branch_rows(c.rows * kRowStats), stream_rows(c.rows * kRowStats);
      const NormForward<T, T, T> a = {.rows = c.rows,
                                      .width = c.width,
                                      .residual = c.has_residual ? residual_of_t.data() : nullptr,
                                      .residual_scale = residual_scale,
                                      .input = branch_of_t.data(),
                                      .branch = branch_of_t.data(),
                                      .branch_scale = branch_scale,
                                      .branch_gain = c.has_branch_gain ? branch_gain_of_t.data() : nullptr,
                                      .sum_scale = sum_scale,
                                      .rounds_sum = false,
                                      .sum = branch_of_t.data(),  // In place, as the blocks do.
                                      .has_norm = c.has_norm,
                                      .formula = c.formula,
                                      .gain = gain_of_t.data(),
                                      .bias = c.has_norm && c.has_bias ? bias_of_t.data() : nullptr,
                                      .alpha = alpha_of_t.data(),
                                      .output_scale = output_scale,
                                      .eps = 1e-5f,
                                      .output = output_of_t.data(),
                                      .inv_rms = inv.data(),
                                      .branch_stats = branch_rows.data(),
                                      .stream_stats = stream_rows.data()};
      const RowPlan plan = PlanRows(
          c.width, LanesOf(c.width, sizeof(T), {a.residual, a.branch, a.gain, a.bias, a.branch_gain, a.output}));
      EXPECT_EQ(plan.lanes > 1, c.is_aligned && c.width % 8 == 0);
      WithPlan<kPackBytes / sizeof(T)>(plan, [&]<int kLanes, int kPacks>() {
        ASSERT_LE(plan.BlockThreads(), BlockThreadsMax(kLanes, kPacks));
        RunGrid({NumBlocks(c.rows, plan, kMultiprocessors), plan.BlockThreads()}, seed,
                [&](EmulatedThread& thread) { RunNormForward<kLanes, kPacks>(a, thread, plan.threads); });
      });
      results[seed - 1] = {branch_of_t.values(), output_of_t.values(), inv.values(), branch_rows.values(),
                           stream_rows.values()};
    }
    EXPECT_EQ(results[0], results[1]) << "the order of threads shows";

    std::vector<double> branch_rows, stream_rows;
    for (int64_t row = 0; row < c.rows; ++row) {
      branch_rows.insert(branch_rows.end(),
                         {branch_stats[row].variance, branch_stats[row].mean_square, branch_stats[row].max_abs});
      stream_rows.insert(stream_rows.end(),
                         {stream_stats[row].variance, stream_stats[row].mean_square, stream_stats[row].max_abs});
    }
    if (c.has_residual) {
      ExpectNear(results[0][0], sum, kTolerance<T>, "sum");
      ExpectNear(results[0][3], branch_rows, 1e-5, "statistics of the branch");
    }
    if (c.has_norm) {
      ExpectNear(results[0][1], output, kTolerance<T>, "output");
      if (c.formula != NormFormula::kDyt) ExpectNear(results[0][2], inv_rms, kTolerance<T>, "inv_rms");
    }
    ExpectNear(results[0][4], stream_rows, 2 * kTolerance<T>, "statistics of the stream");
  }
}

TYPED_TEST(CudaKernelsTest, NormBackwardEqualsTheCpuKernelOnEveryPlan) {
  using T = TypeParam;
  for (NormCase c : NormCases()) {
    if (!c.has_norm) continue;
    const int64_t rows = c.rows * 8 + 1;
    SCOPED_TRACE(c.Name());
    const size_t size = static_cast<size_t>(rows) * c.width, dim = c.width;
    const bool has_add = c.width != 768, is_dyt = c.formula == NormFormula::kDyt;
    const std::vector<double> grad = this->Random(size), x = this->Random(size, 2), add = this->Random(size);
    const std::vector<double> gain = this->Random(dim), bias = this->Random(dim);
    std::vector<double> inv_rms = this->Random(rows, 0.1);
    for (double& value : inv_rms) value = 0.5 + std::abs(ToFloat(FromFloat<float>(static_cast<float>(value))));
    Array<float> inv(inv_rms, true);
    inv_rms = inv.values();

    std::vector<double> grad_x(size), grad_gain(dim), grad_bias(dim);
    double grad_alpha = 0;
    const NormWeights<double> weights = {c.formula, gain.data(), bias.data(), 0.75, 0.4, 0};
    Kernels<double>().norm_grad({.rows = rows,
                                 .dim = c.width,
                                 .norm = &weights,
                                 .grad_output = grad.data(),
                                 .x = x.data(),
                                 .inv_rms = inv_rms.data(),
                                 .add = has_add ? add.data() : nullptr,
                                 .add_scale = 0.7,
                                 .grad_x = grad_x.data(),
                                 .grad_gain = grad_gain.data(),
                                 .grad_bias = c.has_bias ? grad_bias.data() : nullptr,
                                 .grad_alpha = &grad_alpha});

    Array<T> x_of_t(x, c.is_aligned), add_of_t(add, c.is_aligned), gain_of_t(gain, true),
        alpha_of_t(std::vector<double>{0.75}, true);
    std::vector<std::vector<double>> results[2];
    for (const uint32_t seed : {1u, 2u}) {
      Array<T> grad_of_t(grad, c.is_aligned), grad_x_of_t(size, c.is_aligned), gain_sums(dim), bias_sums(dim),
          alpha_sums(1);
      NormBackward<T, T, T> a = {.rows = rows,
                                 .width = c.width,
                                 .formula = c.formula,
                                 .gain = gain_of_t.data(),
                                 .alpha = alpha_of_t.data(),
                                 .output_scale = 0.4f,
                                 .grad_output = grad_of_t.data(),
                                 .x = x_of_t.data(),
                                 .inv_rms = inv.data(),
                                 .add = has_add ? add_of_t.data() : nullptr,
                                 .add_scale = 0.7f,
                                 .grad_x = grad_x_of_t.data()};
      const RowPlan plan =
          PlanRows(c.width, LanesOf(c.width, sizeof(T), {a.gain, a.grad_output, a.x, a.add, a.grad_x}));
      const int blocks = NumBlocks(rows, plan, kMultiprocessors);
      Array<float> gain_parts(blocks * dim), bias_parts(blocks * dim), alpha_parts(blocks);
      a.gain_parts = gain_parts.data();
      if (c.has_bias) a.bias_parts = bias_parts.data();
      if (is_dyt) a.alpha_parts = alpha_parts.data();
      WithPlan<kPackBytes / sizeof(T)>(plan, [&]<int kLanes, int kPacks>() {
        RunGrid({blocks, plan.BlockThreads()}, seed, [&](EmulatedThread& thread) {
          c.has_bias ? RunNormBackward<kLanes, kPacks, true>(a, thread, plan.threads)
                     : RunNormBackward<kLanes, kPacks, false>(a, thread, plan.threads);
        });
      });
      const auto sum = [&](int width, Array<float>& parts, Array<T>& sums) {
        const SumParts<T> all = {.num_parts = blocks, .width = width, .parts = parts.data(), .sums = sums.data()};
        RunGrid({(width + kWarpSize - 1) / kWarpSize, kSumPartsThreads}, seed,
                [&](EmulatedThread& thread) { RunSumParts(all, thread); });
      };
      sum(c.width, gain_parts, gain_sums);
      sum(c.width, bias_parts, bias_sums);
      sum(1, alpha_parts, alpha_sums);
      results[seed - 1] = {grad_x_of_t.values(), gain_sums.values(), bias_sums.values(), alpha_sums.values()};
    }
    EXPECT_EQ(results[0], results[1]) << "the order of threads shows";
    ExpectNear(results[0][0], grad_x, kTolerance<T>, "gradient by x");
    ExpectNear(results[0][1], grad_gain, kTolerance<T>, "gradient by gain");
    if (c.has_bias) ExpectNear(results[0][2], grad_bias, kTolerance<T>, "gradient by bias");
    if (is_dyt) ExpectNear(results[0][3], {grad_alpha}, 2 * kTolerance<T>, "gradient by alpha");
  }
}

TYPED_TEST(CudaKernelsTest, ColumnProductsEqualTheCpuKernel) {
  using T = TypeParam;
  const int64_t rows = 11;
  for (const int width : {5, 512, 1000, 2048}) {
    const std::vector<double> a = this->Random(rows * width), b = this->Random(rows * width);
    std::vector<double> expected(width);
    Kernels<double>().column_products({rows, width, a.data(), b.data(), expected.data()});
    Array<T> a_of_t(a, true), b_of_t(b, true), sums(width);
    const RowPlan plan = PlanRows(width, LanesOf(width, sizeof(T), {a_of_t.data(), b_of_t.data()}));
    const int blocks = NumBlocks(rows, plan, kMultiprocessors);
    Array<float> parts(blocks * width);
    WithPlan<kPackBytes / sizeof(T)>(plan, [&]<int kLanes, int kPacks>() {
      const cuda::ColumnProducts<T, T> products = {rows, width, a_of_t.data(), b_of_t.data(), parts.data()};
      RunGrid({blocks, plan.BlockThreads()}, 3,
              [&](EmulatedThread& thread) { RunColumnProducts<kLanes, kPacks>(products, thread, plan.threads); });
    });
    const SumParts<T> all = {.num_parts = blocks, .width = width, .parts = parts.data(), .sums = sums.data()};
    RunGrid({(width + kWarpSize - 1) / kWarpSize, kSumPartsThreads}, 3,
            [&](EmulatedThread& thread) { RunSumParts(all, thread); });
    ExpectNear(sums.values(), expected, kTolerance<T>, "width " + std::to_string(width));
  }
}

TYPED_TEST(CudaKernelsTest, SwiGluAndItsGradientEqualTheCpuKernel) {
  using T = TypeParam;
  const int64_t rows = 5;
  for (const int64_t width : {1, 37, 344, 2048, 5464}) {
    std::vector<double> gate_up = this->Random(rows * 2 * width, 12), grad = this->Random(rows * width);
    std::vector<double> output(rows * width);
    Array<T> gate_up_of_t(gate_up, true), grad_of_t(grad, true), output_of_t(rows * width);
    const int lanes = LanesOf(width, sizeof(T), {gate_up_of_t.data()});
    const GridShape shape = {std::min(3, SwiGluBlocks(rows)), SwiGluThreads(width, lanes)};
    const auto run = [&](const auto& one, const auto& wide) {
      RunGrid(shape, 5, [&](EmulatedThread& thread) { lanes == 1 ? one(thread) : wide(thread); });
    };
    constexpr int kWide = kPackBytes / sizeof(T);
    const SwiGluForward<T> forward = {rows, width, gate_up_of_t.data(), output_of_t.data()};
    run([&](EmulatedThread& thread) { RunSwiGluForward<T, 1>(forward, thread); },
        [&](EmulatedThread& thread) { RunSwiGluForward<T, kWide>(forward, thread); });
    const SwiGluBackward<T> backward = {rows, width, gate_up_of_t.data(), grad_of_t.data()};
    run([&](EmulatedThread& thread) { RunSwiGluBackward<T, 1>(backward, thread); },
        [&](EmulatedThread& thread) { RunSwiGluBackward<T, kWide>(backward, thread); });

    Kernels<double>().swiglu({rows, width, gate_up.data(), output.data()});
    Kernels<double>().swiglu_grad({rows, width, gate_up.data(), grad.data()});
    ExpectNear(output_of_t.values(), output, kTolerance<T>, "output");
    ExpectNear(grad_of_t.values(), output, kTolerance<T>, "output, made again");
    ExpectNear(gate_up_of_t.values(), gate_up, kTolerance<T>, "gradient");
  }
}

TYPED_TEST(CudaKernelsTest, CrossEntropyAndItsGradientEqualTheCpuKernelAlsoForSureModels) {
  using T = TypeParam;
  const int64_t rows = 4;
  float grad_scale = 0.5;
  for (const int64_t vocab : {1, 33, 4096, 5003}) {
    for (const double scale : {1.0, 40.0}) {
      std::vector<double> logits = this->Random(rows * vocab, scale);
      const std::vector<int64_t> targets = {0, vocab - 1, -100, vocab / 2};
      std::vector<double> gradient = logits, expected(rows);
      for (int64_t row = 0; row < rows; ++row) {
        double* row_gradient = gradient.data() + row * vocab;
        if (targets[row] < 0) {
          std::fill_n(row_gradient, vocab, 0.0);
        } else {
          Kernels<double>().cross_entropy({1, vocab, row_gradient, &targets[row], true, 0.5, &expected[row]});
        }
      }
      for (uint32_t seed = 1; seed <= 8; ++seed) {
        Array<T> logits_of_t(logits, true);
        Array<float> losses(rows);
        const int lanes = LanesOf(vocab, sizeof(T), {logits_of_t.data()});
        const CrossEntropy<T> a = {rows, vocab, logits_of_t.data(), targets.data(), &grad_scale, losses.data()};
        RunGrid({2, kCrossEntropyThreads}, seed, [&](EmulatedThread& thread) {
          lanes == 1 ? RunCrossEntropy<T, 1>(a, thread) : RunCrossEntropy<T, kPackBytes / sizeof(T)>(a, thread);
        });
        ExpectNear(losses.values(), expected, 3e-6, "losses");
        ExpectNear(logits_of_t.values(), gradient, kTolerance<T>, "gradient");
      }
    }
  }
}

TYPED_TEST(CudaKernelsTest, ATargetBeyondTheVocabularyMakesTheLossNoNumber) {
  Array<TypeParam> logits(64);
  Array<float> losses(1);
  const int64_t target = 64;
  const CrossEntropy<TypeParam> a = {1, 64, logits.data(), &target, nullptr, losses.data()};
  RunGrid({1, kCrossEntropyThreads}, 9, [&](EmulatedThread& thread) { RunCrossEntropy<TypeParam, 1>(a, thread); });
  EXPECT_TRUE(std::isnan(losses.values()[0]));
}

// A stream in float32 around branches in bfloat16: every load and store of another width than its neighbour.
TEST(MixedCudaKernelsTest, ForwardEqualsTheCpuKernelWithAWiderStream) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  for (const int width : {43, 512, 768, 2056}) {
    const int64_t rows = 5;
    const size_t size = static_cast<size_t>(rows) * width;
    std::vector<double> residual(size), branch(size), gain(width), sum(size), output(size), inv_rms(rows);
    for (double& value : residual) value = normal(generator);
    for (auto* values : {&branch, &gain}) {
      for (double& value : *values) value = ToFloat(ToBfloat16(normal(generator)));
    }
    const NormWeights<double> weights = {.gain = gain.data(), .output_scale = 0.7, .eps = 1e-5};
    Kernels<double>().norm({.rows = rows,
                            .dim = width,
                            .residual = residual.data(),
                            .residual_scale = 1.25,
                            .branch = branch.data(),
                            .sum = sum.data(),
                            .norm = &weights,
                            .output = output.data(),
                            .inv_rms = inv_rms.data()});
    Array<float> residual_here(residual, true), sum_here(size), inv(rows);
    Array<Bfloat16> branch_here(branch, true), gain_here(gain, true), output_here(size);
    const NormForward<Bfloat16, float, Bfloat16> a = {.rows = rows,
                                                      .width = width,
                                                      .residual = residual_here.data(),
                                                      .residual_scale = 1.25,
                                                      .branch = branch_here.data(),
                                                      .branch_scale = 1,
                                                      .sum_scale = 1,
                                                      .sum = sum_here.data(),
                                                      .has_norm = true,
                                                      .gain = gain_here.data(),
                                                      .output_scale = 0.7f,
                                                      .eps = 1e-5f,
                                                      .output = output_here.data(),
                                                      .inv_rms = inv.data()};
    const RowPlan plan = PlanRows(width, LanesOf(width, sizeof(Bfloat16), {a.branch, a.residual, a.sum, a.output}));
    WithPlan<8>(plan, [&]<int kLanes, int kPacks>() {
      RunGrid({NumBlocks(rows, plan, kMultiprocessors), plan.BlockThreads()}, 3,
              [&](EmulatedThread& thread) { RunNormForward<kLanes, kPacks>(a, thread, plan.threads); });
    });
    ExpectNear(sum_here.values(), sum, kTolerance<float>, "sum");
    ExpectNear(output_here.values(), output, kTolerance<Bfloat16>, "output");

    // And back: the gradient of a bfloat16 output by the float32 stream.
    std::vector<double> grad(size), add(size), grad_x(size), grad_gain(width);
    for (double& value : grad) value = ToFloat(ToBfloat16(normal(generator)));
    for (double& value : add) value = normal(generator);
    const std::vector<double> inv_here = inv.values();
    const std::vector<double> stream = sum_here.values();
    Kernels<double>().norm_grad({.rows = rows,
                                 .dim = width,
                                 .norm = &weights,
                                 .grad_output = grad.data(),
                                 .x = stream.data(),
                                 .inv_rms = inv_here.data(),
                                 .add = add.data(),
                                 .add_scale = 0.5,
                                 .grad_x = grad_x.data(),
                                 .grad_gain = grad_gain.data()});
    Array<Bfloat16> grad_here(grad, true);
    Array<float> add_here(add, true), grad_x_here(size);
    const int blocks = NumBlocks(rows, plan, kMultiprocessors);
    Array<float> parts(static_cast<size_t>(blocks) * width), gain_sums(width);
    const NormBackward<Bfloat16, Bfloat16, float> b = {.rows = rows,
                                                       .width = width,
                                                       .gain = gain_here.data(),
                                                       .output_scale = 0.7f,
                                                       .grad_output = grad_here.data(),
                                                       .x = sum_here.data(),
                                                       .inv_rms = inv.data(),
                                                       .add = add_here.data(),
                                                       .add_scale = 0.5f,
                                                       .grad_x = grad_x_here.data(),
                                                       .gain_parts = parts.data()};
    WithPlan<8>(plan, [&]<int kLanes, int kPacks>() {
      RunGrid({blocks, plan.BlockThreads()}, 3,
              [&](EmulatedThread& thread) { RunNormBackward<kLanes, kPacks, false>(b, thread, plan.threads); });
    });
    const SumParts<float> all = {.num_parts = blocks, .width = width, .parts = parts.data(), .sums = gain_sums.data()};
    RunGrid({(width + kWarpSize - 1) / kWarpSize, kSumPartsThreads}, 3,
            [&](EmulatedThread& thread) { RunSumParts(all, thread); });
    ExpectNear(grad_x_here.values(), grad_x, kTolerance<float>, "gradient by the stream");
    ExpectNear(gain_sums.values(), grad_gain, kTolerance<float>, "gradient by gain");
  }
}

TEST(EmulatedGridTest, AMissingBarrierShowsAsWrongNumbers) {
  const auto run = [](uint32_t seed, bool has_barrier) {
    std::vector<float> seen(64);
    RunGrid({1, 64}, seed, [&](EmulatedThread& thread) {
      thread.ShuffleXor(0, 1);
      thread.shared()[thread.index()] = static_cast<float>(thread.index());
      if (has_barrier) thread.Barrier();
      const float other = thread.shared()[63 - thread.index()];
      seen[thread.index()] = std::isnan(other) ? -1 : other;
    });
    return seen;
  };
  EXPECT_EQ(run(1, true), run(2, true));
  EXPECT_NE(run(1, false), run(1, true));
}

TEST(EmulatedGridTest, ABarrierThatSomeThreadsSkipIsAnError) {
  EXPECT_THROW(RunGrid({1, 64}, 1,
                       [](EmulatedThread& thread) {
                         if (thread.index() < 32) thread.Barrier();
                       }),
               std::logic_error);
}

TEST(RowPlanTest, EveryWidthUpToTheLargestFitsItsThreads) {
  for (const int full : {4, 8}) {
    for (int width = 1; width <= kWidthMax; ++width) {
      const RowPlan plan = PlanRows(width, width % full == 0 ? full : 1);
      ASSERT_GE(plan.threads * plan.packs * plan.lanes, width);
      ASSERT_LE(plan.threads, kWarpsMax * kWarpSize);
      ASSERT_LE(plan.BlockThreads(), BlockThreadsMax(plan.lanes, plan.packs));
      ASSERT_TRUE(plan.rows == 1 || width <= kTeamsRowMax);
      WithPlan<8>(plan, [&]<int kLanes, int kPacks>() { ASSERT_EQ(kPacks, plan.packs); });
    }
  }
}

TEST(RowPlanTest, AWideLoadNeedsAWidthAndAddressesThatAllowIt) {
  const auto at = [](uintptr_t address) { return reinterpret_cast<const void*>(address); };
  EXPECT_EQ(LanesOf(768, 2, {at(32), nullptr, at(48)}), 8);
  EXPECT_EQ(LanesOf(768, 4, {at(32)}), 4);
  EXPECT_EQ(LanesOf(764, 2, {at(32)}), 1);
  EXPECT_EQ(LanesOf(768, 2, {at(32), at(34)}), 1);
}

}  // namespace
}  // namespace normlab::trainer::cuda
