#include "worker/trainer/train/trainer_reports.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string_view>
#include <utility>

#include "worker/trainer/model/ngpt.h"
#include "worker/trainer/train/tensor_norms.h"

namespace normlab::trainer {
namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

/// 0 where the system does not say.
int64_t ResidentBytes() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/self/statm", "re"), std::fclose);
  long long all = 0, resident = 0;
  if (!file || std::fscanf(file.get(), "%lld %lld", &all, &resident) != 2) return 0;
  return resident * sysconf(_SC_PAGESIZE);
}

bool IsNormGain(const Parameter& parameter) {
  const bool is_norm =
      parameter.name.find("norm") != std::string::npos || parameter.name.find(".ln_") != std::string::npos;
  return is_norm && parameter.tensor.dim() == 1 && parameter.name.ends_with(".weight");
}

/// Where a layer's statistics have room for a learned scale, by the end of the parameter's name; a mean over what ends
/// alike.
struct ScaleRow {
  std::string_view suffix;
  std::optional<double> LayerStats::*value;
  at::Tensor (*read)(const at::Tensor& stored);
};

at::Tensor AsStored(const at::Tensor& stored) { return stored; }

constexpr ScaleRow kScaleRows[] = {{".attention_branch_scale", &LayerStats::attention_scale, AsStored},
                                   {".attn_alpha", &LayerStats::attention_scale, NgptStepSize},
                                   {".ffn_branch_scale", &LayerStats::ffn_scale, AsStored},
                                   {".mlp_alpha", &LayerStats::ffn_scale, NgptStepSize},
                                   {".gpas_gate", &LayerStats::gate, AsStored},
                                   {".alpha", &LayerStats::dyt_alpha, AsStored}};

void AddScales(const std::vector<const Parameter*>& parameters, LayerStats* stats) {
  for (const ScaleRow& row : kScaleRows) {
    double sum = 0;
    int64_t count = 0;
    for (const Parameter* parameter : parameters) {
      if (!parameter->name.ends_with(row.suffix)) continue;
      sum += row.read(parameter->tensor.detach()).mean().item<double>();
      ++count;
    }
    if (count > 0) stats->*row.value = sum / static_cast<double>(count);
  }
}

/// What the layer's own weights say.
void AddWeightStats(const std::vector<const Parameter*>& parameters, LayerStats* stats) {
  std::vector<at::Tensor> matrices;
  double sum = 0;
  int64_t count = 0;
  for (const Parameter* parameter : parameters) {
    if (parameter->tensor.dim() >= 2) matrices.push_back(parameter->tensor);
    if (!IsNormGain(*parameter)) continue;
    const at::Tensor host = parameter->tensor.detach().to(at::kCPU, at::kFloat);
    const float* gains = host.const_data_ptr<float>();
    for (int64_t i = 0; i < parameter->tensor.numel(); ++i) {
      const double gain = gains[i];
      stats->norm_gain_min = count == 0 ? gain : std::min(*stats->norm_gain_min, gain);
      stats->norm_gain_max = count == 0 ? gain : std::max(*stats->norm_gain_max, gain);
      sum += gain;
      ++count;
    }
  }
  if (count > 0) stats->norm_gain_mean = sum / static_cast<double>(count);
  stats->weight_norm = RootOfSquares(NormsOf(matrices));
}

}  // namespace

double ProcessCpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
}

void Reports::Add(const StepResult& result) {
  tokens_ += result.tokens;
  seconds_ += result.phases.Total();
}

StepReport Reports::Step(int64_t step, const StepResult& result, const Progress& progress) {
  // Time of updates only: evaluations and checkpoints between two reports would make it jump.
  const double tokens_per_second = static_cast<double>(std::exchange(tokens_, 0)) / std::exchange(seconds_, 0);
  return {.step = step,
          .loss = result.loss,
          .lr = result.lr,
          .grad_norm = result.grad_norm,
          .tokens = progress.tokens,
          .tokens_per_second = tokens_per_second,
          .step_seconds = result.phases.Total(),
          .clipped = result.is_clipped,
          .clip_fraction = static_cast<double>(progress.clipped_updates) / static_cast<double>(step),
          .data_seconds = result.phases.data,
          .forward_seconds = result.phases.forward,
          .backward_seconds = result.phases.backward,
          .communication_seconds = result.phases.communication,
          .optimizer_seconds = result.phases.optimizer,
          .checkpoint_seconds = std::exchange(stall_seconds_, 0),
          .cpu_seconds = result.cpu_seconds,
          .memory_bytes = ResidentBytes(),
          .flops_utilization = tokens_at_peak_ > 0 ? tokens_per_second / tokens_at_peak_ : 0};
}

LayerReport MakeLayerReport(int64_t step, const StepResult& result, const std::vector<Parameter>& parameters) {
  const std::vector<BlockStats>& blocks = result.layers->blocks;
  const std::vector<double>& stream = *result.layers->stream_grad_norms;
  std::vector<std::vector<double>> norms(blocks.size() + 1);
  std::vector<std::vector<const Parameter*>> of_layer(blocks.size() + 1);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto layer = static_cast<size_t>(parameters[i].layer);
    norms[layer].push_back(result.grad_norms[i]);
    of_layer[layer].push_back(&parameters[i]);
  }
  LayerReport report{.step = step, .layers = {}};
  for (size_t layer = 1; layer <= blocks.size(); ++layer) {
    const BlockStats& block = blocks[layer - 1];
    LayerStats stats{.layer = static_cast<int>(layer),
                     .output_variance = block.output.variance,
                     .output_mean_square = block.output.mean_square,
                     .attention_mean_square = block.attention.mean_square,
                     .ffn_mean_square = block.ffn.mean_square,
                     .grad_norm = RootOfSquares(norms[layer]),
                     .dropped_ratio = block.dropped_ratio,
                     .output_variance_median = block.output.variance_median,
                     .output_max_abs = block.output.max_abs,
                     .attention_variance = block.attention.variance,
                     .ffn_variance = block.ffn.variance,
                     .stream_grad_ratio = stream[layer - 1] / stream[layer]};
    AddWeightStats(of_layer[layer], &stats);
    AddScales(of_layer[layer], &stats);
    report.layers.push_back(stats);
  }
  return report;
}

}  // namespace normlab::trainer
