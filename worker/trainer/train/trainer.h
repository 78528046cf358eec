#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/trainer/data/batch_reader.h"
#include "worker/trainer/events.h"
#include "worker/trainer/model/transformer.h"
#include "worker/trainer/spec.h"
#include "worker/trainer/train/checkpoint.h"
#include "worker/trainer/train/gang.h"
#include "worker/trainer/train/grad_sync.h"
#include "worker/trainer/train/optimizer.h"

namespace normlab::trainer {

/// Trains one run on this process's rank. One thread calls it; `stop_requested` may be set from a signal handler.
///
/// A crash loses the updates since the last checkpoint and nothing else: a later attempt that resumes has the same
/// losses and weights, bit for bit on the same machine, threads and world size, as if there had been no crash.
class Trainer {
 public:
  /// Opens the data, meets the gang, builds the model and loads the newest checkpoint. Throws PermanentError for what
  /// would fail again (spec, dataset, a checkpoint of another spec), other exceptions for what may not.
  Trainer(const TrainerSpec& spec, EventSink& events, const std::atomic<bool>& stop_requested);
  ~Trainer();

  /// Trains to the end, to a stop, or to divergence, and reports it; the weights then are those of the last update
  /// whose loss was finite.
  void Run();

  /// Last update done, by this or the attempt resumed from.
  int64_t step() const { return step_; }

 private:
  struct StepResult {
    double loss;
    double lr;
    std::vector<double> grad_norms;  // One per parameter, before clipping.
    double grad_norm;
    double seconds;
    at::Tensor layer_rows;  // As LayerForwardStats; undefined unless layers are due.
    bool is_finite;
    bool is_clipped;
    bool is_stop_agreed;  // All ranks stop after this update, because at least one was asked to.
  };
  struct Batch {
    at::Tensor inputs;        // int64 [sequences, seq_len]
    at::Tensor targets;       // int64 [sequences, seq_len]
    int64_t num_targets = 0;  // Those that are not kIgnoredTarget.
  };

  void Resume();

  StepResult TrainStep(int64_t step);
  Batch TrainBatch(int64_t step, int64_t micro);
  Batch ValidationBatch(int64_t first, int64_t count);
  Batch EmptyBatch(int64_t count) const;
  std::vector<double> GradientNorms() const;
  bool Clip(double grad_norm);

  void Report(const StepResult& result);
  void ReportLayers(const StepResult& result);
  void Evaluate();
  void SaveCheckpoint();

  bool IsDue(int64_t step, int64_t every_steps) const;

  TrainerSpec spec_;
  EventSink& events_;
  const std::atomic<bool>& stop_requested_;
  BatchReader data_;
  Fingerprint fingerprint_;
  Gang gang_;
  Transformer model_;
  AdamW optimizer_;
  GradSync grad_sync_;
  std::unique_ptr<CheckpointFolder> checkpoints_;  // Rank 0 only.
  int64_t local_batch_;                            // Sequences of this rank per update.
  int64_t micro_batch_;                            // Sequences of one forward.
  int64_t step_ = 0;
  std::string resumed_from_;
  std::optional<int64_t> evaluated_step_;
  std::optional<int64_t> saved_step_;
  int64_t unreported_steps_ = 0;
  double unreported_seconds_ = 0;
};

}  // namespace normlab::trainer
