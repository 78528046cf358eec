#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

// What a trainer says: the messages of proto/normlab/v1/trainer_event.proto, where each field is documented, written as
// JSON lines in the proto JSON mapping:
//
//   line  := {"<event>": {"<field>": value, ...}} "\n"
//   value := text, true, false, or a number; a double that is not finite is "NaN", "Infinity" or "-Infinity"
namespace normlab::trainer {

struct RendezvousOpen {
  std::string address;
};

struct Started {
  int64_t first_step;
  int64_t steps;
  int64_t num_parameters;
  std::string resumed_from;
  double flops_per_token;
  std::string device;
  std::string torch_version;
  double peak_flops = 0;
};

struct StepReport {
  int64_t step;
  double loss;
  double lr;
  double grad_norm;
  int64_t tokens;
  double tokens_per_second;
  double step_seconds;
  bool clipped;
  double clip_fraction = 0;
  double data_seconds = 0;
  double forward_seconds = 0;
  double backward_seconds = 0;
  double communication_seconds = 0;
  double optimizer_seconds = 0;
  double checkpoint_seconds = 0;
  double cpu_seconds = 0;
  int64_t memory_bytes = 0;
  double flops_utilization = 0;
};

struct LayerStats {
  int layer;
  double output_variance;
  double output_mean_square;
  double attention_mean_square;
  double ffn_mean_square;
  double grad_norm;
  double weight_norm = 0;
  std::optional<double> norm_gain_mean;
  std::optional<double> norm_gain_min;
  std::optional<double> norm_gain_max;
  std::optional<double> dropped_ratio;
  double output_variance_median = 0;
  double output_max_abs = 0;
  double attention_variance = 0;
  double ffn_variance = 0;
  double stream_grad_ratio = 0;
  std::optional<double> attention_scale;
  std::optional<double> ffn_scale;
  std::optional<double> gate;
  std::optional<double> dyt_alpha;
};

struct LayerReport {
  int64_t step;
  std::vector<LayerStats> layers;
};

struct Evaluating {
  int64_t step;
  int64_t sequences_done;
  int64_t sequences;
};

struct EvalReport {
  int64_t step;
  double loss;
  double perplexity;
  int64_t tokens;
  int64_t batches = 0;
  double perplexity_official = 0;
};

struct CheckpointSaved {
  int64_t step;
  std::string name;
  int64_t bytes;
  double stall_seconds = 0;
  double write_seconds = 0;
};

enum class Severity { kInfo, kWarning, kError };

struct LogLine {
  Severity severity;
  std::string text;
};

struct Finished {
  int64_t step;
  bool diverged;
};

struct Stopped {
  int64_t step;
};

struct Failed {
  std::string message;
  int64_t step;
  bool retryable;
};

using TrainerEvent = std::variant<RendezvousOpen, Started, StepReport, LayerReport, Evaluating, EvalReport,
                                  CheckpointSaved, LogLine, Finished, Stopped, Failed>;

/// One line with its newline.
std::string ToJsonLine(const TrainerEvent& event);

/// Where events go. One thread.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void Emit(const TrainerEvent& event) = 0;
};

/// Writes each event as one line with one write(2), so that a reader sees whole lines only. Throws FileError if the
/// reader is gone (EPIPE) or the disk is full: a trainer that nobody hears must end. Closes nothing.
class JsonLineSink : public EventSink {
 public:
  explicit JsonLineSink(int fd) : fd_(fd) {}
  void Emit(const TrainerEvent& event) override;

 private:
  int fd_;
};

}  // namespace normlab::trainer
