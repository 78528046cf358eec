#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "worker/trainer/events.h"
#include "worker/trainer/model/transformer.h"

namespace normlab::trainer {

/// What a run has done so far, beside its weights; part of a checkpoint.
struct Progress {
  int64_t tokens = 0;  // Targets.
  int64_t clipped_updates = 0;
  int64_t updates_above_bound = 0;  // The last ones in a row with a loss above train.divergence_loss.
};

/// Seconds of one update.
struct Phases {
  double data = 0;
  double forward = 0;
  double backward = 0;
  double communication = 0;
  double optimizer = 0;
  double Total() const { return data + forward + backward + communication + optimizer; }
};

/// One update, as all ranks agree on it; times are this rank's.
struct StepResult {
  double loss = 0;
  double lr = 0;
  std::vector<double> grad_norms;  // One per parameter, before clipping.
  double grad_norm = 0;
  int64_t tokens = 0;                       // Targets over all ranks.
  std::optional<LayerForwardStats> layers;  // Where they are due.
  bool is_clipped = false;
  bool is_stop_agreed = false;  // All ranks stop after this update, because at least one was asked to.
  Phases phases;
  double cpu_seconds = 0;
};

/// Time since the last lap.
class Stopwatch {
 public:
  double Lap() {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }
  /// Without starting a lap.
  double Seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - last_).count(); }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// Processor time of this process, all threads, in seconds.
double ProcessCpuSeconds();

/// Makes step and layer reports from updates.
class Reports {
 public:
  /// What is reported at the start; the utilization is relative to it.
  void Start(double flops_per_token, double peak_flops) { tokens_at_peak_ = peak_flops / flops_per_token; }
  /// Call after every update.
  void Add(const StepResult& result);
  /// Time between updates for which training stood still for a checkpoint.
  void AddStall(double seconds) { stall_seconds_ += seconds; }

  /// Rates and stalls are those since the last report.
  StepReport Step(int64_t step, const StepResult& result, const Progress& progress);

 private:
  double tokens_at_peak_ = 0;  // Per second.
  int64_t tokens_ = 0;
  double seconds_ = 0;
  double stall_seconds_ = 0;
};

/// The statistics of every layer after update `step`; result.layers must be there.
LayerReport MakeLayerReport(int64_t step, const StepResult& result, const std::vector<Parameter>& parameters);

}  // namespace normlab::trainer
