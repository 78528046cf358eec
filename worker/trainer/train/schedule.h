#pragma once

#include <cstdint>

#include "worker/trainer/spec.h"

namespace normlab::trainer {

/// Learning rate of the 1-based update `step`. Both schedules count finished updates, s = step - 1, as the code of
/// arXiv:2502.05795 does, and begin with a linear warmup of w updates from 0, so that with a warmup the first update
/// has rate 0. With S steps and r = lr_min_ratio, behind the warmup:
///   cosine:  lr * (r + (1 - r) * (1 + cos(pi * (s - w) / (S - w))) / 2); the update after the last would have lr * r
///   wsd:     lr, and over the last D = round(decay_ratio * S) updates lr * (1 - (1 - r) * (s - (S - D)) / D)
///            (warmup, stable, decay: arXiv:2404.06395; linear as in arXiv:2405.18392)
double LearningRate(const TrainSpec& train, int64_t step);

}  // namespace normlab::trainer
