#pragma once

#include <cfloat>
#include <cmath>

#include "worker/trainer/cuda/team.h"

// Cross entropy of rows of logits and, in their place, its gradient, as CrossEntropyRows of
// model/kernels/cpu_kernels.h.
namespace normlab::trainer::cuda {

template <typename T>
struct CrossEntropy {
  int64_t rows;
  int64_t vocab;
  T* logits;                // [rows, vocab]. With grad_scale: becomes it times d(loss of the row) / d(logits).
  const int64_t* targets;   // A negative one does not count: its loss and gradient are 0.
  const float* grad_scale;  // [1], or null: no gradient is wanted.
  float* losses;            // [rows], in nats; NaN where the target is beyond the vocabulary.
};

inline constexpr int kCrossEntropyThreads = kWarpsMax * kWarpSize;

inline int CrossEntropyBlocks(int64_t rows) { return static_cast<int>(std::min<int64_t>(rows, 132 * 4)); }

/// One block to a row at a time. Reads the row once to find its largest logit and the sum of exponentials together
/// (arXiv:1805.02867, algorithm 3), and once more, now from the cache, to write the gradient.
template <typename T, int kLanes, typename Thread>
NORMLAB_DEVICE void RunCrossEntropy(const CrossEntropy<T>& a, Thread& thread) {
  Team<Thread> team(thread, thread.block_size());
  const int64_t first = static_cast<int64_t>(thread.index()) * kLanes;
  const int64_t stride = static_cast<int64_t>(thread.block_size()) * kLanes;
  for (int64_t row = thread.block(); row < a.rows; row += thread.num_blocks()) {
    T* logits = a.logits + row * a.vocab;
    const int64_t target = a.targets[row];
    if (target < 0) {
      if (thread.index() == 0) a.losses[row] = 0;
      for (int64_t i = first; a.grad_scale != nullptr && i < a.vocab; i += stride)
        StorePack<kLanes>(logits + i, Pack<T, kLanes>{});
      continue;
    }
    // Before the barriers below: behind them others overwrite it.
    const float target_logit = target < a.vocab ? ToFloat(logits[target]) : NAN;
    float largest = -FLT_MAX, sum = 0;
    for (int64_t i = first; i < a.vocab; i += stride) {
      const Pack<T, kLanes> pack = LoadPack<kLanes>(logits + i);
      float pack_largest = largest;
      NORMLAB_UNROLL
      for (int lane = 0; lane < kLanes; ++lane) pack_largest = Larger(pack_largest, ToFloat(pack.values[lane]));
      sum *= ::expf(largest - pack_largest);
      largest = pack_largest;
      NORMLAB_UNROLL
      for (int lane = 0; lane < kLanes; ++lane) sum += ::expf(ToFloat(pack.values[lane]) - largest);
    }
    float row_largest[1] = {largest};
    team.template Reduce<0, 1>(row_largest);
    const float row_sum = team.Sum(sum * ::expf(largest - row_largest[0]));
    if (thread.index() == 0) a.losses[row] = ::logf(row_sum) - (target_logit - row_largest[0]);
    if (a.grad_scale == nullptr) continue;
    const float grad_scale = *a.grad_scale;
    const float factor = grad_scale / row_sum;
    for (int64_t i = first; i < a.vocab; i += stride) {
      Pack<T, kLanes> pack = LoadPack<kLanes>(logits + i);
      NORMLAB_UNROLL
      for (int lane = 0; lane < kLanes; ++lane) {
        const float probability = ::expf(ToFloat(pack.values[lane]) - row_largest[0]) * factor;
        pack.values[lane] = FromFloat<T>(i + lane == target ? probability - grad_scale : probability);
      }
      StorePack<kLanes>(logits + i, pack);
    }
  }
}

}  // namespace normlab::trainer::cuda
