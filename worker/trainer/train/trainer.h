#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/trainer/data/batch_reader.h"
#include "worker/trainer/device/run_device.h"
#include "worker/trainer/events.h"
#include "worker/trainer/model/transformer.h"
#include "worker/trainer/spec.h"
#include "worker/trainer/train/checkpoint.h"
#include "worker/trainer/train/checkpoint_writer.h"
#include "worker/trainer/train/gang.h"
#include "worker/trainer/train/grad_sync.h"
#include "worker/trainer/train/optimizer.h"
#include "worker/trainer/train/run_state.h"
#include "worker/trainer/train/trainer_reports.h"

namespace normlab::trainer {

/// Trains one run on this process's rank. One thread calls it; `stop_requested` may be set from a signal handler.
///
/// A crash loses the updates since the last checkpoint and nothing else: a later attempt that resumes has the same
/// losses and weights, bit for bit on the same machine, threads and world size, as if there had been no crash.
///
/// Checkpoints are copied between two updates and written beside the next ones. If one is due while the one before is
/// still being written, training waits for it: which checkpoints there are follows from the spec and not from the disk.
/// A write that fails is a warning, and the next checkpoint is tried; only that of a run's end or stop is an error.
class Trainer {
 public:
  /// Opens the data, meets the gang, builds the model and loads the newest checkpoint. Throws PermanentError for what
  /// would fail again (spec, dataset, a checkpoint of another spec), other exceptions for what may not.
  /// `device` is where it computes; without it, what spec.device wishes for is looked for.
  Trainer(const TrainerSpec& spec, EventSink& events, const std::atomic<bool>& stop_requested,
          std::optional<RunDevice> device = {});
  ~Trainer();

  /// Trains to the end, to a stop, or to divergence, and reports it; the weights then are those of the last update
  /// before the one that diverged.
  void Run();

  /// Last update done, by this or the attempt resumed from.
  int64_t step() const { return step_; }

 private:
  struct Batch {
    at::Tensor inputs;        // int64 [sequences, seq_len], on the device.
    at::Tensor targets;       // int64 [sequences, seq_len]
    int64_t num_targets = 0;  // Those that are not kIgnoredTarget.
  };

  void OpenCheckpoints();
  void Resume();
  void StartFromInitialWeights();

  StepResult TrainStep(int64_t step);
  void ForwardBackward(const std::vector<Batch>& batches, int64_t step, StepResult* result);
  void Update(int64_t step, StepResult* result);
  std::vector<Batch> TrainBatches(int64_t step);
  Batch ValidationBatch(int64_t first, int64_t count);
  Batch EmptyBatch(int64_t count) const;
  /// Begins to copy it to the device.
  void Upload(Batch* batch) const;
  void ReportDeviceMemory();
  std::vector<at::Tensor> Gradients() const;
  /// Why the run is over with this update, or nothing. All ranks see the same values and agree.
  std::string Divergence(const StepResult& result);

  void Evaluate();
  void StartCheckpoint();
  void ReportCheckpoint(const CheckpointWriter::Outcome& outcome);
  /// Waits for what is being written. Throws if it is the checkpoint of this update and was not saved.
  void FinishCheckpoints();
  void EndDiverged(const StepResult& result, const std::string& why);

  bool IsDue(int64_t step, int64_t every_steps) const;
  bool is_sharded() const { return spec_.run.train.zero_stage == 1 && gang_.world_size() > 1; }

  TrainerSpec spec_;
  EventSink& events_;
  const std::atomic<bool>& stop_requested_;
  BatchReader data_;
  Fingerprint fingerprint_;
  RunDevice device_;
  Gang gang_;
  Transformer model_;
  Adam optimizer_;
  GradSync grad_sync_;
  StateCopy state_copy_;
  Reports reports_;
  std::unique_ptr<CheckpointFolder> checkpoints_;  // Rank 0 only; moves into the writer.
  std::unique_ptr<CheckpointWriter> writer_;       // Rank 0 only.
  int64_t local_batch_;                            // Sequences of this rank per update.
  int64_t micro_batch_;                            // Sequences of one forward.
  int64_t step_ = 0;
  Progress progress_;
  std::string resumed_from_;
  std::optional<int64_t> evaluated_step_;
  std::optional<int64_t> saved_step_;  // For which a checkpoint was started.
  double stall_seconds_ = 0;           // Of the checkpoint that is being written.
};

}  // namespace normlab::trainer
