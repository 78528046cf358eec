// The operators of model/ops.h: LibTorch's operations against numeric gradients and the model's CPU kernels in float64;
// then every device against them, in each mix of types that a model has. Without a GPU its half is skipped, with words.
#include "worker/trainer/model/ops.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <torch/library.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "worker/trainer/device/run_device.h"

namespace normlab::trainer {
namespace {

at::Tensor Random(at::IntArrayRef shape, uint64_t seed, double scale = 1) {
  // Numbers that bfloat16 holds, so that all types start alike.
  const at::Tensor draws = at::randn(shape, at::detail::createCPUGenerator(seed), at::kFloat) * scale;
  return draws.to(at::kBFloat16).to(at::kDouble);
}

double Distance(const at::Tensor& actual, const at::Tensor& expected) {
  EXPECT_EQ(actual.sizes(), expected.sizes());
  const at::Tensor here = actual.to(at::kCPU, at::kDouble), there = expected.to(at::kCPU, at::kDouble);
  return ((here - there).norm() / (there.norm() + 1e-30)).item<double>();
}

Norm MakeNorm(NormKind kind, int64_t width, bool has_bias) {
  Norm norm = {.gain = Random({width}, 11), .output_scale = 0.5, .eps = 1e-3, .kind = kind};
  if (has_bias) norm.bias = Random({width}, 12);
  if (kind == NormKind::kDyt) norm.alpha = at::full({1}, 0.75, at::kDouble);
  return norm;
}

/// Holds gradients to central differences of function, at a few places of each input.
void ExpectGradients(const std::function<double()>& function, const std::vector<at::Tensor>& inputs,
                     const std::vector<at::Tensor>& gradients) {
  ASSERT_EQ(inputs.size(), gradients.size());
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_EQ(inputs[i].sizes(), gradients[i].sizes());
    const at::Tensor gradient = gradients[i].contiguous();
    double* values = inputs[i].mutable_data_ptr<double>();
    const int64_t stride = std::max<int64_t>(1, inputs[i].numel() / 7);
    for (int64_t at = 0; at < inputs[i].numel(); at += stride) {
      const double value = values[at];
      values[at] = value + kStep;
      const double above = function();
      values[at] = value - kStep;
      const double below = function();
      values[at] = value;
      EXPECT_NEAR(gradient.const_data_ptr<double>()[at], (above - below) / (2 * kStep), 1e-7)
          << "input " << i << " at " << at;
    }
  }
}

const NormKind kKinds[] = {NormKind::kRms, NormKind::kLayer, NormKind::kDyt};

TEST(OpsTest, TheGradientOfEveryNormIsThatOfItsDifferences) {
  for (const NormKind kind : kKinds) {
    SCOPED_TRACE(static_cast<int>(kind));
    const Norm norm = MakeNorm(kind, 21, /*has_bias=*/true);
    const at::Tensor x = Random({5, 21}, 1), grad = Random({5, 21}, 2), add = Random({5, 21}, 3);
    const auto run = [&] { return ops::ResidualNorm(&norm, {.branch = x}, {}, at::kDouble, false, false).norm; };
    const NormGradient gradient = ops::NormBackward(norm, grad, x, run().inv_rms, add, 0.5);
    std::vector<at::Tensor> inputs = {x}, gradients = {gradient.x - 0.5 * add};
    for (const at::Tensor& weight : norm.Weights()) inputs.push_back(weight);
    gradients.insert(gradients.end(), gradient.parameters.begin(), gradient.parameters.end());
    ExpectGradients([&] { return (run().output * grad).sum().item<double>(); }, inputs, gradients);
  }
}

TEST(OpsTest, TheGradientOfSwiGluIsThatOfItsDifferences) {
  const at::Tensor gate_up = Random({3, 26}, 1), grad = Random({3, 13}, 2);
  const at::Tensor gradient = gate_up.clone(), output = grad.clone();
  ops::SwiGluBackward(gradient, output);
  EXPECT_LT(Distance(output, ops::SwiGlu(gate_up)), 1e-15);
  ExpectGradients([&] { return (ops::SwiGlu(gate_up) * grad).sum().item<double>(); }, {gate_up}, {gradient});
}

TEST(OpsTest, TheGradientOfCrossEntropyIsThatOfItsDifferences) {
  const at::Tensor logits = Random({4, 9}, 1);
  const at::Tensor targets = at::tensor({0, 8, -100, 3}, at::kLong), scale = at::full({}, 0.25, at::kDouble);
  const at::Tensor gradient = logits.clone();
  ops::CrossEntropy(gradient, targets, scale);
  ExpectGradients([&] { return 0.25 * ops::CrossEntropy(logits.clone(), targets, {}).item<double>(); }, {logits},
                  {gradient});
  EXPECT_EQ(gradient[2].abs().sum().item<double>(), 0);
}

TEST(OpsTest, TheyEqualTheModelsOwnCpuKernels) {
  for (const NormKind kind : kKinds) {
    const Norm norm = MakeNorm(kind, 43, /*has_bias=*/true);
    const ResidualSum sum = {.residual = Random({67, 43}, 1),
                             .residual_scale = 1.5,
                             .branch = Random({67, 43}, 2),
                             .branch_scale = 0.5,
                             .branch_gain = Random({43}, 3),
                             .sum_scale = 0.25,
                             .is_rounded = true};
    const at::Tensor expected_sum = at::empty_like(sum.branch), actual_sum = at::empty_like(sum.branch);
    TokenStats branch, stream;
    const NormResult expected = AddAndNorm(&norm, sum, expected_sum, {.branch = &branch, .output = &stream});
    const ops::ResidualNormResult actual = ops::ResidualNorm(&norm, sum, actual_sum, at::kDouble, true, true);
    EXPECT_LT(Distance(actual_sum, expected_sum), 1e-14);
    EXPECT_LT(Distance(actual.norm.output, expected.output), 1e-6);  // The CPU's rounding goes through float32.
    const at::Tensor branch_rows = actual.branch_stats.to(at::kDouble), stream_rows = actual.stream_stats;
    EXPECT_NEAR(branch_rows.select(1, 0).mean().item<double>(), branch.variance, 1e-12);
    EXPECT_NEAR(branch_rows.select(1, 1).mean().item<double>(), branch.mean_square, 1e-12);
    EXPECT_NEAR(branch_rows.select(1, 2).max().item<double>(), branch.max_abs, 1e-12);
    EXPECT_NEAR(stream_rows.select(1, 0).mean().item<double>(), stream.variance, 1e-6);

    const at::Tensor grad = Random({67, 43}, 4), add = Random({67, 43}, 5);
    const NormGradient one = NormBackward(norm, grad, expected_sum, expected.inv_rms, add, 0.7);
    const NormGradient other = ops::NormBackward(norm, grad, expected_sum, expected.inv_rms, add, 0.7);
    EXPECT_LT(Distance(other.x, one.x), 1e-12);
    for (size_t i = 0; i < one.parameters.size(); ++i) {
      EXPECT_LT(Distance(other.parameters.at(i), one.parameters.at(i)), 1e-12) << i;
    }
    EXPECT_LT(Distance(ops::ColumnProducts(grad, add), SumOfProducts(grad, add)), 1e-12);
  }
}

#ifdef NORMLAB_CUDA_LIBRARY
TEST(KernelLibraryTest, BringsEveryOperatorToTheGpuThoughNoGpuIsHere) {
  // As run_device.cc does; the build's own LibTorch has not all of NVIDIA's libraries beside it, that of the peers has.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    GTEST_SKIP() << "LibTorch's CUDA part cannot be loaded: " << dlerror();
  }
  ASSERT_NE(dlopen(NORMLAB_CUDA_LIBRARY, RTLD_NOW | RTLD_GLOBAL), nullptr) << dlerror();
  for (const char* name :
       {"residual_norm", "norm_backward", "column_products", "swiglu", "swiglu_backward", "cross_entropy"}) {
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow((std::string("normlab::") + name).c_str(), "");
    EXPECT_TRUE(op.hasKernelForDispatchKey(c10::DispatchKey::CUDA)) << name;
  }
}
#endif

/// Element types of weights and branches, and of the stream.
struct Types {
  at::ScalarType weight, stream;

  double Tolerance() const { return weight == at::kBFloat16 ? 8e-3 : 3e-6; }
};

class DeviceOpsTest : public ::testing::TestWithParam<c10::DeviceType> {
 protected:
  void SetUp() override {
    if (GetParam() == c10::kCPU) return;
    static const RunDevice kDevice = FindDevice();
    if (!kDevice.is_cuda()) GTEST_SKIP() << "no GPU: " << kDevice.lacks;
    if (!kDevice.kernels_lack.empty()) GTEST_SKIP() << "no kernels on " << kDevice.name << ": " << kDevice.kernels_lack;
  }

  at::Tensor On(const at::Tensor& x, at::ScalarType type) const {
    return x.defined() ? x.to(GetParam(), type, false, /*copy=*/true) : x;
  }
  Norm On(const Norm& norm, at::ScalarType type) const {
    Norm moved = norm;
    moved.gain = On(norm.gain, type);
    moved.bias = On(norm.bias, type);
    moved.alpha = On(norm.alpha, type);
    return moved;
  }

  static constexpr Types kTypes[] = {
      {at::kFloat, at::kFloat}, {at::kBFloat16, at::kBFloat16}, {at::kBFloat16, at::kFloat}};
};

INSTANTIATE_TEST_SUITE_P(Devices, DeviceOpsTest, ::testing::Values(c10::kCPU, c10::kCUDA),
                         [](const auto& info) { return info.param == c10::kCPU ? "Cpu" : "Gpu"; });

TEST_P(DeviceOpsTest, ResidualNormAndItsGradientEqualThoseInFloat64) {
  for (const Types& types : kTypes) {
    for (const int64_t width : {43, 512, 768, 1000, 2048, 8192}) {
      for (const NormKind kind : kKinds) {
        SCOPED_TRACE(c10::str(types.weight, " ", types.stream, " width ", width, " kind ", static_cast<int>(kind)));
        const int64_t rows = 150;
        const Norm norm = MakeNorm(kind, width, /*has_bias=*/kind != NormKind::kRms);
        const Norm moved = On(norm, types.weight);
        const ResidualSum sum = {
            .residual = Random({rows, width}, 1), .residual_scale = 1.5, .branch = Random({rows, width}, 2)};
        const ResidualSum moved_sum = {
            .residual = On(sum.residual, types.stream), .residual_scale = 1.5, .branch = On(sum.branch, types.weight)};
        const at::Tensor expected_sum = at::empty_like(sum.branch);
        const at::Tensor actual_sum = at::empty_like(moved_sum.residual);
        const auto expected = ops::ResidualNorm(&norm, sum, expected_sum, at::kDouble, true, true);
        const auto actual = ops::ResidualNorm(&moved, moved_sum, actual_sum, types.weight, true, true);
        EXPECT_LT(Distance(actual_sum, expected_sum), types.stream == at::kFloat ? 3e-6 : 8e-3);
        EXPECT_LT(Distance(actual.norm.output, expected.norm.output), types.Tolerance());
        EXPECT_LT(Distance(actual.branch_stats, expected.branch_stats), 1e-5);
        EXPECT_LT(Distance(actual.stream_stats, expected.stream_stats), types.Tolerance());
        if (kind != NormKind::kDyt) {
          EXPECT_LT(Distance(actual.norm.inv_rms, expected.norm.inv_rms), types.Tolerance());
        }

        const at::Tensor grad = Random({rows, width}, 4), add = Random({rows, width}, 5);
        const auto backward = [&] {
          return ops::NormBackward(moved, On(grad, types.weight), actual_sum, actual.norm.inv_rms,
                                   On(add, types.stream), 0.7);
        };
        const NormGradient one = ops::NormBackward(norm, grad, expected_sum, expected.norm.inv_rms, add, 0.7);
        const NormGradient other = backward();
        EXPECT_LT(Distance(other.x, one.x), types.Tolerance());
        for (size_t i = 0; i < one.parameters.size(); ++i) {
          EXPECT_LT(Distance(other.parameters.at(i), one.parameters.at(i)), types.Tolerance()) << i;
        }
        const NormGradient again = backward();
        EXPECT_TRUE(at::equal(again.x, other.x));
        for (size_t i = 0; i < one.parameters.size(); ++i) {
          EXPECT_TRUE(at::equal(again.parameters.at(i), other.parameters.at(i))) << "not the same bits twice: " << i;
        }
        EXPECT_LT(Distance(ops::ColumnProducts(On(add, types.stream), On(grad, types.weight)),
                           ops::ColumnProducts(add, grad)),
                  3e-6);
      }
    }
  }
}

TEST_P(DeviceOpsTest, AResidualInTheTypeOfBranchesIsWidenedToTheStream) {
  const Norm norm = MakeNorm(NormKind::kRms, 64, false), moved = On(norm, at::kBFloat16);
  const at::Tensor residual = Random({5, 64}, 1), branch = Random({5, 64}, 2);
  const at::Tensor expected = at::empty_like(branch), actual = On(expected, at::kFloat);
  ops::ResidualNorm(&norm, {.residual = residual, .branch = branch}, expected, at::kDouble, false, false);
  ops::ResidualNorm(&moved, {.residual = On(residual, at::kBFloat16), .branch = On(branch, at::kBFloat16)}, actual,
                    at::kFloat, false, false);
  EXPECT_LT(Distance(actual, expected), 1e-6);
}

TEST_P(DeviceOpsTest, SwiGluAndItsGradientEqualThoseInFloat64) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t width : {37, 344, 2048}) {
      const at::Tensor gate_up = Random({70, 2 * width}, 1, 8), grad = Random({70, width}, 2);
      const at::Tensor moved = On(gate_up, type), moved_grad = On(grad, type);
      const double tolerance = type == at::kBFloat16 ? 2e-2 : 3e-6;
      EXPECT_LT(Distance(ops::SwiGlu(moved), ops::SwiGlu(gate_up)), tolerance);
      ops::SwiGluBackward(gate_up, grad);
      ops::SwiGluBackward(moved, moved_grad);
      EXPECT_LT(Distance(moved, gate_up), tolerance);
      EXPECT_LT(Distance(moved_grad, grad), tolerance);
    }
  }
}

TEST_P(DeviceOpsTest, CrossEntropyAndItsGradientEqualThoseInFloat64) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t vocab : {33, 4096, 32000}) {
      for (const double scale : {1.0, 40.0}) {
        const at::Tensor logits = Random({70, vocab}, 1, scale), moved = On(logits, type);
        const at::Tensor targets = at::randint(vocab, {70}, at::detail::createCPUGenerator(1), at::kLong);
        targets[3] = -100;
        const double factor = 1.0 / 64;
        const double expected = ops::CrossEntropy(logits, targets, at::full({}, factor, at::kDouble)).item<double>();
        const double actual =
            ops::CrossEntropy(moved, targets.to(GetParam()), On(at::full({}, factor, at::kDouble), at::kFloat))
                .item<double>();
        EXPECT_NEAR(actual, expected, 1e-5 * expected);
        EXPECT_LT(Distance(moved, logits), type == at::kBFloat16 ? 8e-3 : 1e-5);
      }
    }
  }
}

TEST_P(DeviceOpsTest, ARowThatNoKernelHoldsIsRefusedWithItsNumbers) {
  if (GetParam() == c10::kCPU) GTEST_SKIP() << "LibTorch's own operations take every width";
  const Norm norm = On(MakeNorm(NormKind::kRms, 8200, false), at::kFloat);
  const at::Tensor x = On(Random({3, 8200}, 1), at::kFloat);
  try {
    ops::ResidualNorm(&norm, {.branch = x}, {}, at::kFloat, false, false);
    FAIL() << "taken";
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("rows of 1 to 8192 elements, not [3, 8200]"), std::string::npos);
  }
}

}  // namespace
}  // namespace normlab::trainer
