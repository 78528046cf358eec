#include "worker/agent/run_metrics.h"

#include <cmath>
#include <optional>
#include <span>

#include "common/growth_fit.h"
#include "fmt/format.h"

namespace normlab::agent {
namespace {

using prometheus::Family;
using prometheus::Gauge;
using prometheus::Labels;

template <typename Report>
struct Row {
  const char* family;
  const char* help;
  const char* phase;  // Value of the label of that name; null: the family has no such label.
  std::optional<double> (*read)(const Report&);
};

/// Power-law exponent of the output variance over the layers.
std::optional<double> GrowthExponent(const v1::LayerReport& report) {
  std::vector<double> variances;
  for (const v1::LayerStats& layer : report.layers()) variances.push_back(layer.output_variance());
  const std::optional<GrowthFit> fit = FitGrowth(variances);
  return fit ? std::optional(fit->power.rate) : std::nullopt;
}

/// Of the loss's gradient by the stream: in front of the first layer over behind the last.
std::optional<double> BoundaryRatio(const v1::LayerReport& report) {
  if (report.layers().empty()) return std::nullopt;
  double ratio = 1;
  for (const v1::LayerStats& layer : report.layers()) ratio *= layer.stream_grad_ratio();
  return ratio;
}

/// How large a branch is beside the stream that it was added to.
std::optional<double> StreamRatio(double branch_mean_square, const v1::LayerStats& layer) {
  if (layer.output_mean_square() <= 0) return std::nullopt;
  return std::sqrt(branch_mean_square / layer.output_mean_square());
}

#define NORMLAB_READ_OPTIONAL(field) \
  [](const v1::LayerStats& r) { return r.has_##field() ? std::optional(r.field()) : std::nullopt; }
#define NORMLAB_READ(Report, expression) [](const v1::Report& r) -> std::optional<double> { return expression; }

constexpr char kPhaseFamily[] = "normlab_train_phase_seconds";
constexpr char kPhaseHelp[] =
    "Time of the last update by phase: data, forward, backward, communication, optimizer; checkpoint: since the last "
    "report.";

constexpr Row<v1::StepReport> kStepRows[] = {
    {"normlab_train_loss_nats", "Mean training loss of the last update per token.", nullptr,
     NORMLAB_READ(StepReport, r.loss())},
    {"normlab_train_learning_rate", "Learning rate of the last update.", nullptr, NORMLAB_READ(StepReport, r.lr())},
    {"normlab_train_grad_norm", "Global gradient norm before clipping.", nullptr,
     NORMLAB_READ(StepReport, r.grad_norm())},
    {"normlab_train_clip_ratio", "Part of all updates since the first that were clipped.", nullptr,
     NORMLAB_READ(StepReport, r.clip_fraction())},
    {"normlab_train_tokens_per_second", "Tokens per second of all ranks, since the last report.", nullptr,
     NORMLAB_READ(StepReport, r.tokens_per_second())},
    {"normlab_train_step", "Last update, from 1.", nullptr, NORMLAB_READ(StepReport, static_cast<double>(r.step()))},
    {"normlab_train_step_seconds", "Duration of the last update.", nullptr, NORMLAB_READ(StepReport, r.step_seconds())},
    {"normlab_train_flops_utilization_ratio",
     "Model FLOPs utilization: the model's operations per second over those of the devices (a CPU's: measured at "
     "start).",
     nullptr, NORMLAB_READ(StepReport, r.flops_utilization())},
    {"normlab_train_memory_bytes", "Resident memory of rank 0's trainer.", nullptr,
     NORMLAB_READ(StepReport, static_cast<double>(r.memory_bytes()))},
    {kPhaseFamily, kPhaseHelp, "data", NORMLAB_READ(StepReport, r.data_seconds())},
    {kPhaseFamily, kPhaseHelp, "forward", NORMLAB_READ(StepReport, r.forward_seconds())},
    {kPhaseFamily, kPhaseHelp, "backward", NORMLAB_READ(StepReport, r.backward_seconds())},
    {kPhaseFamily, kPhaseHelp, "communication", NORMLAB_READ(StepReport, r.communication_seconds())},
    {kPhaseFamily, kPhaseHelp, "optimizer", NORMLAB_READ(StepReport, r.optimizer_seconds())},
    {kPhaseFamily, kPhaseHelp, "checkpoint", NORMLAB_READ(StepReport, r.checkpoint_seconds())},
};

constexpr Row<v1::LayerStats> kLayerRows[] = {
    {"normlab_layer_output_variance", "Variance over hidden of a layer's output, mean over tokens.", nullptr,
     NORMLAB_READ(LayerStats, r.output_variance())},
    {"normlab_layer_output_mean_square", "Mean square of a layer's output.", nullptr,
     NORMLAB_READ(LayerStats, r.output_mean_square())},
    {"normlab_layer_attention_mean_square", "Mean square of what attention adds to the residual stream.", nullptr,
     NORMLAB_READ(LayerStats, r.attention_mean_square())},
    {"normlab_layer_ffn_mean_square", "Mean square of what the feed-forward network adds to the residual stream.",
     nullptr, NORMLAB_READ(LayerStats, r.ffn_mean_square())},
    {"normlab_layer_output_variance_median", "Variance over hidden of a layer's output, median over tokens.", nullptr,
     NORMLAB_READ(LayerStats, r.output_variance_median())},
    {"normlab_layer_output_max_abs", "Largest absolute value in a layer's output.", nullptr,
     NORMLAB_READ(LayerStats, r.output_max_abs())},
    {"normlab_layer_attention_variance", "Variance over hidden of what attention adds to the residual stream.", nullptr,
     NORMLAB_READ(LayerStats, r.attention_variance())},
    {"normlab_layer_ffn_variance", "Variance over hidden of what the feed-forward network adds to the residual stream.",
     nullptr, NORMLAB_READ(LayerStats, r.ffn_variance())},
    {"normlab_layer_attention_stream_ratio",
     "Root mean square of what attention adds over that of the layer's output: near 0, it does nothing.", nullptr,
     NORMLAB_READ(LayerStats, StreamRatio(r.attention_mean_square(), r))},
    {"normlab_layer_ffn_stream_ratio",
     "Root mean square of what the feed-forward network adds over that of the layer's output.", nullptr,
     NORMLAB_READ(LayerStats, StreamRatio(r.ffn_mean_square(), r))},
    {"normlab_layer_stream_grad_ratio",
     "Norm of the loss's gradient by a layer's input over that by its output: 1 where a layer does nothing.", nullptr,
     NORMLAB_READ(LayerStats, r.stream_grad_ratio())},
    {"normlab_layer_attention_scale", "Learned scale of what attention adds (LayerScale, SkipInit, nGPT), mean.",
     nullptr, NORMLAB_READ_OPTIONAL(attention_scale)},
    {"normlab_layer_ffn_scale", "Learned scale of what the feed-forward network adds, mean.", nullptr,
     NORMLAB_READ_OPTIONAL(ffn_scale)},
    {"normlab_layer_gpas_gate", "GPAS's gate a, which passes 1 - silu(a) of the residual stream.", nullptr,
     NORMLAB_READ_OPTIONAL(gate)},
    {"normlab_layer_dyt_alpha", "Mean alpha of a layer's DyT norms.", nullptr, NORMLAB_READ_OPTIONAL(dyt_alpha)},
    {"normlab_layer_grad_norm", "Norm of the gradient of all parameters of a layer.", nullptr,
     NORMLAB_READ(LayerStats, r.grad_norm())},
    {"normlab_layer_weight_norm", "Norm of all matrices of a layer.", nullptr,
     NORMLAB_READ(LayerStats, r.weight_norm())},
    {"normlab_layer_norm_gain_mean", "Mean gain of a layer's norms.", nullptr, NORMLAB_READ_OPTIONAL(norm_gain_mean)},
    {"normlab_layer_norm_gain_min", "Smallest gain of a layer's norms.", nullptr, NORMLAB_READ_OPTIONAL(norm_gain_min)},
    {"normlab_layer_norm_gain_max", "Largest gain of a layer's norms.", nullptr, NORMLAB_READ_OPTIONAL(norm_gain_max)},
    {"normlab_layer_dropped_ratio", "Part of the tokens' choices for which an expert had no room.", nullptr,
     NORMLAB_READ_OPTIONAL(dropped_ratio)},
};

constexpr Row<v1::LayerReport> kDepthRows[] = {
    {"normlab_variance_growth_exponent",
     "p of the least-squares fit variance = c * layer^p to the output variances of all layers.", nullptr,
     GrowthExponent},
    {"normlab_gradient_boundary_ratio",
     "Norm of the loss's gradient by the first layer's input over that by the last layer's output.", nullptr,
     BoundaryRatio},
};

constexpr Row<v1::EvalReport> kEvalRows[] = {
    {"normlab_eval_loss_nats", "Mean loss per token of the last evaluation on held-out text.", nullptr,
     NORMLAB_READ(EvalReport, r.loss())},
    {"normlab_eval_perplexity", "exp of the loss of the last evaluation.", nullptr,
     NORMLAB_READ(EvalReport, r.perplexity())},
};

constexpr Row<v1::CheckpointSaved> kCheckpointRows[] = {
    {"normlab_checkpoint_step", "Update that the last complete checkpoint holds.", nullptr,
     NORMLAB_READ(CheckpointSaved, static_cast<double>(r.step()))},
    {"normlab_checkpoint_stall_seconds", "Time for which training stood still for the last checkpoint.", nullptr,
     NORMLAB_READ(CheckpointSaved, r.stall_seconds())},
};

#undef NORMLAB_READ_OPTIONAL
#undef NORMLAB_READ

template <typename Report>
constexpr std::span<const Row<Report>> RowsOf() {
  if constexpr (std::is_same_v<Report, v1::StepReport>) return kStepRows;
  if constexpr (std::is_same_v<Report, v1::LayerStats>) return kLayerRows;
  if constexpr (std::is_same_v<Report, v1::LayerReport>) return kDepthRows;
  if constexpr (std::is_same_v<Report, v1::EvalReport>) return kEvalRows;
  if constexpr (std::is_same_v<Report, v1::CheckpointSaved>) return kCheckpointRows;
}

/// Rows that name one family share it: the registry merges equal declarations.
template <typename Report>
std::vector<Family<Gauge>*> Declare(prometheus::Registry& registry) {
  std::vector<Family<Gauge>*> families;
  for (const Row<Report>& row : RowsOf<Report>()) {
    families.push_back(&prometheus::BuildGauge().Name(row.family).Help(row.help).Register(registry));
  }
  return families;
}

}  // namespace

template <typename Report>
class SeriesOf {
 public:
  SeriesOf(const std::vector<Family<Gauge>*>& families, Labels labels)
      : families_(families), labels_(std::move(labels)), gauges_(families.size(), nullptr) {}
  ~SeriesOf() {
    for (std::size_t i = 0; i < gauges_.size(); ++i) {
      if (gauges_[i] != nullptr) families_[i]->Remove(gauges_[i]);
    }
  }

  void Set(const Report& report) {
    const auto rows = RowsOf<Report>();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::optional<double> value = rows[i].read(report);
      if (!value) continue;
      if (gauges_[i] == nullptr) {
        Labels labels = labels_;
        if (rows[i].phase != nullptr) labels["phase"] = rows[i].phase;
        gauges_[i] = &families_[i]->Add(labels);
      }
      gauges_[i]->Set(*value);
    }
  }

 private:
  const std::vector<Family<Gauge>*>& families_;
  const Labels labels_;
  std::vector<Gauge*> gauges_;
};

namespace {

/// Sets `series`, made at the first report.
template <typename Report>
void SetSeries(std::unique_ptr<SeriesOf<Report>>& series, const std::vector<Family<Gauge>*>& families,
               const Labels& labels, const Report& report) {
  if (series == nullptr) series = std::make_unique<SeriesOf<Report>>(families, labels);
  series->Set(report);
}

}  // namespace

RunFamilies::RunFamilies(prometheus::Registry& registry)
    : step_(Declare<v1::StepReport>(registry)),
      layer_(Declare<v1::LayerStats>(registry)),
      depth_(Declare<v1::LayerReport>(registry)),
      eval_(Declare<v1::EvalReport>(registry)),
      checkpoint_(Declare<v1::CheckpointSaved>(registry)),
      tokens_total_(prometheus::BuildCounter()
                        .Name("normlab_train_tokens_total")
                        .Help("Tokens predicted since the first step of the run.")
                        .Register(registry)) {}

RunFamilies::~RunFamilies() = default;

RunMetrics::RunMetrics(RunFamilies& families, const std::string& experiment, const std::string& run,
                       const std::string& norm, int64_t seed)
    : families_(families),
      labels_({{"experiment", experiment}, {"run", run}, {"norm", norm}, {"seed", fmt::format("{}", seed)}}) {}

RunMetrics::~RunMetrics() {
  if (tokens_total_ != nullptr) families_.tokens_total_.Remove(tokens_total_);
}

void RunMetrics::Observe(const v1::TrainerEvent& event) {
  switch (event.event_case()) {
    case v1::TrainerEvent::kStep:
      SetSeries(step_, families_.step_, labels_, event.step());
      return CountTokens(event.step().tokens());
    case v1::TrainerEvent::kLayers:
      for (const v1::LayerStats& layer : event.layers().layers()) {
        Labels labels = labels_;
        labels["layer"] = fmt::format("{}", layer.layer());
        SetSeries(layers_[layer.layer()], families_.layer_, labels, layer);
      }
      return SetSeries(depth_, families_.depth_, labels_, event.layers());
    case v1::TrainerEvent::kEval:
      return SetSeries(eval_, families_.eval_, labels_, event.eval());
    case v1::TrainerEvent::kCheckpoint:
      return SetSeries(checkpoint_, families_.checkpoint_, labels_, event.checkpoint());
    default:
      return;
  }
}

void RunMetrics::CountTokens(int64_t tokens) {
  if (tokens_total_ == nullptr) tokens_total_ = &families_.tokens_total_.Add(labels_);
  // A counter cannot be set; Increment ignores what is negative.
  tokens_total_->Increment(static_cast<double>(tokens) - tokens_total_->Value());
}

}  // namespace normlab::agent
