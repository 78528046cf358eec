#include "worker/trainer/device/memory_estimate.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/norm_plan.h"
#include "worker/trainer/model/parameters.h"

namespace normlab::trainer {
namespace {

constexpr int64_t kDeviceLogits = 1 << 26, kHostLogits = 1 << 20;  // As head.cc has them.
constexpr int64_t kDeviceFixed = int64_t{1} << 30;

/// Bytes of one number.
struct Widths {
  int64_t compute;
  int64_t stream;
};

int64_t Elements(bool is_there, int64_t count) { return is_there ? count : 0; }

/// What a sublayer keeps per token beside its branch (SublayerSaved in block.cc).
int64_t AroundBytes(const SublayerPlan& plan, int64_t hidden, const Widths& bytes) {
  const bool needs_copy = !plan.input_norm && bytes.stream != bytes.compute;
  return hidden *
         (bytes.stream +  // The stream before it.
          Elements(plan.input_norm.has_value() || needs_copy, bytes.compute) +
          Elements(plan.branch_norm.has_value(), bytes.compute) + Elements(plan.sum_norm.has_value(), bytes.stream) +
          Elements(plan.branch_scale_kind != BranchScaleKind::kConstant, bytes.compute));
}

int64_t AttentionBytes(const ModelSpec& model, const BlockPlan& plan, const Widths& bytes) {
  const int64_t parts = 5 + Elements(plan.qkv_norms.IsAny(), 3);  // Query, key, value, output and its copy by token.
  return parts * model.hidden * bytes.compute + 4 * model.num_heads;
}

int64_t FfnBytes(const ModelSpec& model, const Widths& bytes) {
  if (model.family == "gpt2") return model.ffn_hidden * bytes.compute;
  if (model.family == "llama") return 2 * model.ffn_hidden * bytes.compute;
  // Each token goes to two experts that have room for capacity_factor times as many.
  return static_cast<int64_t>(2 * model.capacity_factor *
                              static_cast<double>((2 * model.ffn_hidden + 2 * model.hidden) * bytes.compute));
}

std::string Gigabytes(int64_t bytes) { return fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9); }

}  // namespace

MemoryNeed EstimateMemory(const MemoryQuestion& question) {
  const RunSpec& run = question.run;
  const bool is_narrow = question.is_narrow && run.train.param_dtype != "fp32";
  const bool is_pure = is_narrow && run.train.param_dtype == "bf16_pure";
  const bool has_wide_stream = run.norm.residual_dtype != "bf16" && !SchemeOf(run.norm).is_ngpt;
  const Widths bytes = {.compute = is_narrow ? 2 : 4, .stream = is_narrow && !has_wide_stream ? 2 : 4};
  const int64_t parameters = CountParameters(run.model, question.vocab_size, run.norm);
  const int64_t shards = run.train.zero_stage == 1 ? question.world_size : 1;
  const int64_t sequences = run.train.micro_batch_size > 0 ? run.train.micro_batch_size
                                                           : run.train.batch_size / std::max(1, question.world_size);
  const int64_t tokens = sequences * run.data.seq_len, hidden = run.model.hidden, vocab = question.vocab_size;

  MemoryNeed need = {.weights = parameters * bytes.compute,
                     .gradients = parameters * (is_pure ? 2 : 4),
                     .optimizer = parameters * (is_pure ? 4 : 8) / shards,
                     .fixed = question.is_device ? kDeviceFixed : 0};
  if (run.train.param_dtype == "fp32_master") need.optimizer += 4 * parameters / shards;
  int64_t per_token = hidden * bytes.stream;
  for (const BlockPlan& plan : PlanBlocks(run.model, run.norm)) {
    per_token += AroundBytes(plan.attention, hidden, bytes) + AroundBytes(plan.ffn, hidden, bytes) +
                 AttentionBytes(run.model, plan, bytes) + FfnBytes(run.model, bytes);
  }
  // The backward of one branch: gradients and activations of its widest products.
  const int64_t backward = std::max(6 * run.model.ffn_hidden, 10 * hidden) * bytes.compute + 3 * hidden * bytes.stream;
  need.activations = tokens * (per_token + backward);
  const int64_t rows =
      std::min(tokens, std::max<int64_t>(64, (question.is_device ? kDeviceLogits : kHostLogits) / vocab));
  // On a device the logits, their logarithms and their gradient; the host works in place.
  const int64_t per_logit = question.is_device || is_narrow ? bytes.compute + 8 : bytes.compute;
  need.logits = rows * vocab * per_logit + 2 * tokens * hidden * bytes.compute + vocab * hidden * 4;
  return need;
}

void RequireFits(const MemoryNeed& need, int64_t device_bytes, const std::string& device_name, const TrainSpec& train) {
  if (need.Total() <= device_bytes) return;
  const int64_t state = need.weights + need.gradients + need.optimizer + need.fixed;
  std::string advice;
  if (state < device_bytes) advice = "set a smaller train.micro_batch_size";
  if (state >= device_bytes && train.zero_stage == 0) advice = "set train.zero_stage to 1 with more workers";
  if (advice.empty()) advice = "take more workers, a smaller model or a larger device";
  throw PermanentError(fmt::format(
      "the run needs about {} of memory, {} has {}: weights {}, gradients {}, optimizer {}, activations {}, logits {}, "
      "CUDA {}. To make it fit, {}",
      Gigabytes(need.Total()), device_name, Gigabytes(device_bytes), Gigabytes(need.weights), Gigabytes(need.gradients),
      Gigabytes(need.optimizer), Gigabytes(need.activations), Gigabytes(need.logits), Gigabytes(need.fixed), advice));
}

}  // namespace normlab::trainer
