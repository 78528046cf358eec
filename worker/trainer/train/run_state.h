#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "worker/trainer/model/transformer.h"
#include "worker/trainer/train/checkpoint.h"
#include "worker/trainer/train/gang.h"
#include "worker/trainer/train/initial_weights.h"
#include "worker/trainer/train/optimizer.h"

// Weights and optimizer state of a gang: copied for a checkpoint, read from one, exchanged between ranks. Every
// function here is called by all ranks at the same step.
namespace normlab::trainer {

/// A copy of weights and optimizer state in memory of its own, so that training may go on while it is written. The
/// memory (rank 0's alone: 12 bytes per parameter, 16 with masters) is taken once and kept: to give it back would cost
/// a page fault per page at each checkpoint.
class StateCopy {
 public:
  /// `is_sharded`: each rank has the optimizer's state of its part alone.
  StateCopy(Gang& gang, const std::vector<Parameter>& parameters, const Adam& adam, bool is_sharded);

  /// Copies what is now; with shards rank 0 collects the others' state.
  void Take();

  /// What the last Take copied, by the names that checkpoint.h says. Empty on ranks above 0.
  std::vector<NamedArray> ModelArrays() const;
  std::vector<NamedArray> OptimizerArrays() const;

 private:
  void CopyStates(at::Tensor Adam::State::*member, const at::Tensor& to);
  std::vector<NamedArray> ArraysOf(const std::string& prefix, const at::Tensor& flat) const;

  Gang& gang_;
  const std::vector<Parameter>& parameters_;
  const Adam& adam_;
  bool is_sharded_;
  std::vector<int64_t> sizes_;  // Elements of each parameter.
  at::Tensor weights_;          // float32 [all elements], as all below; undefined until the first Take.
  at::Tensor exp_avgs_;
  at::Tensor exp_avg_sqs_;
  at::Tensor masters_;
};

/// Overwrites weights and optimizer state with a checkpoint's. Rank 0 reads it and tells the others: they need no
/// shared file system, and none can load another one. `checkpoint` is null on ranks above 0.
void LoadState(const VerifiedCheckpoint* checkpoint, Gang& gang, const std::vector<Parameter>& parameters,
               const Adam& adam);

/// Overwrites the weights; `weights` is null on ranks above 0. Throws PermanentError if they are another model's.
void LoadWeights(InitialWeights* weights, Gang& gang, const std::vector<Parameter>& parameters);

/// Gives every rank the weights that the others updated (ZeRO stage 1).
void ShareWeights(Gang& gang, const std::vector<Parameter>& parameters);

}  // namespace normlab::trainer
