#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/trainer/model/transformer.h"
#include "worker/trainer/train/gang.h"

namespace normlab::trainer {

/// Sums gradients over a gang while the backward that makes them still runs. Gradients live in flat buckets, last
/// parameters first, because backward finishes those first; a bucket is sent as soon as it and all before it are
/// complete, so that all ranks send in one order. With one process gradients are plain and nothing is sent. One thread.
class GradSync {
 public:
  /// With `is_wide` gradients of weights in bfloat16 are added up, over micro batches and ranks, in float32.
  GradSync(Gang& gang, const std::vector<Parameter>& parameters, bool is_wide = false);
  ~GradSync();

  /// Call before the first backward of an update.
  void ZeroGradients();

  /// The next backward is the update's last: what it completes is sent.
  void ExpectLastBackward();

  /// Call after the last backward. Returns when every gradient is the sum over all ranks.
  void Finish();

 private:
  struct Bucket {
    at::Tensor flat;  // [elements]
    std::vector<size_t> parameters;
    size_t num_missing = 0;
    std::unique_ptr<Gang::Pending> sum;
  };
  class Hook;

  void MakeBuckets();
  void OnGradient(size_t bucket);

  Gang& gang_;
  const std::vector<Parameter>& parameters_;
  bool is_wide_;
  std::vector<Bucket> buckets_;
  size_t next_bucket_ = 0;
  bool is_last_backward_ = false;
};

}  // namespace normlab::trainer
