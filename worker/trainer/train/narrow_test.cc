// Training as a GPU does it, on a CPU: weights in bfloat16, LibTorch's operations, the fused optimizer.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "worker/trainer/model/portable.h"
#include "worker/trainer/testing/tiny_dataset.h"
#include "worker/trainer/train/optimizer.h"
#include "worker/trainer/train/trainer.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;

struct Losses : EventSink {
  void Emit(const TrainerEvent& event) override {
    if (const auto* report = std::get_if<StepReport>(&event)) by_step[report->step] = report->loss;
    if (const auto* report = std::get_if<StepReport>(&event); report && report->step == stop_at) stop = true;
    if (const auto* report = std::get_if<LayerReport>(&event)) last_layers = report->layers;
  }
  std::map<int64_t, double> by_step;
  std::vector<LayerStats> last_layers;
  int64_t stop_at = -1;
  std::atomic<bool> stop = false;
};

const RunDevice kNarrowCpu = {.is_narrow = true};

class NarrowTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    folder_ = fs::path(::testing::TempDir()) / fmt::format("narrow_{}_{}", GetParam(), getpid());
    fs::remove_all(folder_);
    WriteTinyDataset(folder_ / "data");
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainerSpec Spec(const std::string& checkpoints) const {
    TrainerSpec spec = TinySpec(folder_);
    spec.run.train.param_dtype = GetParam();
    spec.checkpoint_dir = (folder_ / checkpoints).string();
    return spec;
  }

  fs::path folder_;
};

INSTANTIATE_TEST_SUITE_P(ParamDtypes, NarrowTest, ::testing::Values("fp32_master", "bf16_pure"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(NarrowTest, LossesStayNearThoseOfTheCpusKernels) {
  Losses narrow, wide;
  Trainer(Spec("narrow"), narrow, narrow.stop, kNarrowCpu).Run();
  Trainer(Spec("wide"), wide, wide.stop, RunDevice{}).Run();
  ASSERT_EQ(narrow.by_step.size(), wide.by_step.size());
  for (const auto& [step, loss] : wide.by_step) EXPECT_NEAR(narrow.by_step.at(step), loss, 0.02) << step;
  ASSERT_FALSE(narrow.last_layers.empty());
  for (size_t i = 0; i < wide.last_layers.size(); ++i) {
    const double variance = wide.last_layers[i].output_variance;
    EXPECT_NEAR(narrow.last_layers[i].output_variance, variance, 0.1 * variance) << "layer " << i + 1;
  }
}

TEST_P(NarrowTest, AnInterruptedRunHasTheLossesOfOneLeftAlone) {
  Losses whole, before, after;
  Trainer(Spec("whole"), whole, whole.stop, kNarrowCpu).Run();
  before.stop_at = static_cast<int64_t>(whole.by_step.size()) / 2;
  Trainer(Spec("parts"), before, before.stop, kNarrowCpu).Run();
  TrainerSpec second = Spec("parts");
  second.attempt = 2;
  second.resume_from_attempt = 1;
  Trainer(second, after, after.stop, kNarrowCpu).Run();
  EXPECT_LT(before.by_step.size(), whole.by_step.size());
  for (const auto& [step, loss] : after.by_step) EXPECT_EQ(loss, whole.by_step.at(step)) << step;
  EXPECT_EQ(after.by_step.rbegin()->first, whole.by_step.rbegin()->first);
}

class CpuRunTest : public NarrowTest {};
INSTANTIATE_TEST_SUITE_P(ParamDtypes, CpuRunTest, ::testing::Values("fp32"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(CpuRunTest, LoadsNoCudaLibraryWhateverTheHostHas) {
  Losses losses;
  TrainerSpec spec = Spec("checkpoints");
  spec.device = "cpu";
  Trainer(spec, losses, losses.stop).Run();
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    // libcudart and libcupti are needed by LibTorch's CPU part itself.
    for (const char* name : {"libcuda.so", "libtorch_cuda", "libc10_cuda", "libnormlab_cuda", "libnccl", "libcublas"}) {
      EXPECT_EQ(line.find(name), std::string::npos) << line;
    }
  }
}

TEST(FusedAdamTest, UpdatesAsTheCpusKernelDoes) {
  for (const std::string optimizer : {"adamw", "adam"}) {
    const TrainSpec train = {.beta1 = 0.9,
                             .beta2 = 0.95,
                             .adam_eps = 1e-8,
                             .weight_decay = 0.1,
                             .optimizer = optimizer,
                             .param_dtype = "fp32"};
    const auto make = [] {
      std::vector<Parameter> parameters;
      for (const bool decays : {true, false}) {
        const at::Tensor values = at::full({5}, 2.0, at::kFloat).requires_grad_();
        parameters.push_back({.name = "p", .tensor = values, .layer = 0, .decays = decays});
      }
      return parameters;
    };
    const std::vector<Parameter> own = make(), fused = make();
    Adam own_adam(own, train, 0, 1);
    const PortableOnly portable;
    Adam fused_adam(fused, train, 0, 1);
    for (int64_t step = 1; step <= 5; ++step) {
      const at::Tensor gradient = at::full({5}, 0.3 * static_cast<double>(step) - 1, at::kFloat);
      for (const auto* parameters : {&own, &fused}) {
        for (const Parameter& p : *parameters) p.tensor.mutable_grad() = gradient.clone();
      }
      own_adam.Step(step, 0.01, /*grad_scale=*/0.5);
      fused_adam.Step(step, 0.01, /*grad_scale=*/0.5);
    }
    for (size_t i = 0; i < own.size(); ++i) {
      EXPECT_LT((own[i].tensor - fused[i].tensor).abs().max().item<double>(), 2e-6) << optimizer << " " << i;
    }
  }
}

}  // namespace
}  // namespace normlab::trainer
