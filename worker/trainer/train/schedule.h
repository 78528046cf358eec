#pragma once

#include <cstdint>

#include "worker/trainer/spec.h"

namespace normlab::trainer {

/// Learning rate of the 1-based update `step`: linear from 0 over the warmup, so that with a warmup the first update
/// has rate 0, then a cosine down to lr * lr_min_ratio, which the update after the last would have (arXiv:2502.05795's
/// code: its scheduler counts finished updates, s = step - 1):
///   s < w:  lr * s / w
///   else:   lr * (r + (1 - r) * (1 + cos(pi * (s - w) / (S - w))) / 2),   w warmup, S steps, r lr_min_ratio
double LearningRate(const TrainSpec& train, int64_t step);

}  // namespace normlab::trainer
