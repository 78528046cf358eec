#include "worker/trainer/device/memory_estimate.h"

#include <ATen/Parallel.h>
#include <ATen/ops/randint.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "worker/trainer/model/parameters.h"
#include "worker/trainer/model/transformer.h"

namespace normlab::trainer {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

RunSpec SpecOf(int layers, int64_t hidden, int64_t heads, int64_t ffn, int64_t batch, int64_t seq_len,
               const std::string& param_dtype = "fp32") {
  RunSpec run = {};
  run.model = {.family = "llama",
               .num_layers = layers,
               .hidden = hidden,
               .num_heads = heads,
               .ffn_hidden = ffn,
               .rope_base = 10000,
               .norm_eps = 1e-6,
               .init_std = 0.02,
               .embed_init_std = 0.02};
  run.norm = {.scheme = "pre_ln", .final_norm = true};
  run.data.seq_len = seq_len;
  run.train.batch_size = batch;
  run.train.param_dtype = param_dtype;
  return run;
}

TEST(MemoryEstimateTest, CountsTheStateOfA1BModelByHand) {
  const RunSpec run = SpecOf(24, 2048, 32, 5461, 32, 256, "fp32_master");
  const int64_t parameters = CountParameters(run.model, 32000, run.norm);
  const MemoryNeed need = EstimateMemory({.run = run, .vocab_size = 32000, .is_narrow = true, .is_device = true});
  EXPECT_EQ(need.weights, 2 * parameters);
  EXPECT_EQ(need.gradients, 4 * parameters);
  EXPECT_EQ(need.optimizer, 12 * parameters) << "two moments and the masters";
  EXPECT_GT(parameters, 1'300'000'000);
}

TEST(MemoryEstimateTest, PureBfloat16HalvesTheStateAndShardsDivideTheOptimizers) {
  RunSpec run = SpecOf(12, 768, 12, 2048, 32, 256, "bf16_pure");
  const int64_t parameters = CountParameters(run.model, 32000, run.norm);
  const auto ask = [&] {
    return EstimateMemory({.run = run, .vocab_size = 32000, .world_size = 4, .is_narrow = true, .is_device = true});
  };
  const MemoryNeed need = ask();
  EXPECT_EQ(need.weights + need.gradients + need.optimizer, 8 * parameters);
  run.train.zero_stage = 1;
  EXPECT_EQ(ask().optimizer, parameters);
  run.train.micro_batch_size = 1;
  EXPECT_LT(ask().activations, need.activations / 7) << "8 sequences of a rank, then 1";
}

TEST(MemoryEstimateTest, SaysWithNumbersThatAModelCannotFitAndWhatToDo) {
  RunSpec run = SpecOf(32, 4096, 32, 11008, 8, 2048, "fp32_master");
  const MemoryNeed need = EstimateMemory({.run = run, .vocab_size = 32000, .is_narrow = true, .is_device = true});
  EXPECT_THAT([&] { RequireFits(need, 85'000'000'000, "NVIDIA H100 80GB HBM3", run.train); },
              ThrowsMessage<PermanentError>(AllOf(HasSubstr("NVIDIA H100 80GB HBM3 has 85.00 GB"),
                                                  HasSubstr("optimizer 80.86 GB"), HasSubstr("train.zero_stage"))));
  EXPECT_NO_THROW(RequireFits(need, need.Total(), "a larger one", run.train));
  EXPECT_THAT([&] { RequireFits(need, need.Total() - 1, "a device", run.train); },
              ThrowsMessage<PermanentError>(HasSubstr("micro_batch_size")));
}

int64_t StatusBytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return std::stoll(line.substr(key.size())) * 1024;
  }
  return 0;
}

TEST(MemoryEstimateTest, IsNearWhatAForwardAndBackwardTakeOnACpu) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory is most of what is measured";
#endif
  at::set_num_threads(1);
  const RunSpec run = SpecOf(8, 256, 4, 688, 16, 256);
  const int64_t vocab = 4096;
  const auto batch = [&] { return at::randint(vocab, {run.train.batch_size, run.data.seq_len}, at::kLong); };
  {  // What libraries take once is not the model's.
    const RunSpec small = SpecOf(1, 32, 2, 32, 1, 16);
    const Transformer first(small.model, small.norm, vocab, 1);
    const at::Tensor tokens = at::randint(vocab, {1, 16}, at::kLong);
    first.Loss(tokens, tokens).backward();
  }
  const at::Tensor inputs = batch(), targets = batch();
  const int64_t before = StatusBytes("VmRSS:");
  std::ofstream("/proc/self/clear_refs") << "5";  // Starts the peak anew.
  const Transformer model(run.model, run.norm, vocab, 1);
  model.Loss(inputs, targets).backward();
  const auto grown = static_cast<double>(StatusBytes("VmHWM:") - before);
  const MemoryNeed need = EstimateMemory({.run = run, .vocab_size = vocab});
  const auto expected = static_cast<double>(need.Total() - need.optimizer);
  RecordProperty("grown_mb", static_cast<int>(grown / 1e6));
  RecordProperty("expected_mb", static_cast<int>(expected / 1e6));
  EXPECT_GT(expected, grown / 1.15) << "too little is promised";
  EXPECT_LT(expected, grown * 1.4) << "runs are refused that would fit";
}

}  // namespace
}  // namespace normlab::trainer
