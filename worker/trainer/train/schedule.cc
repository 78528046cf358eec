#include "worker/trainer/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace normlab::trainer {
namespace {

double Cosine(const TrainSpec& train, int64_t done) {
  const auto decay_steps = static_cast<double>(std::max<int64_t>(1, train.steps - train.warmup_steps));
  const double progress = static_cast<double>(done - train.warmup_steps) / decay_steps;
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * progress));
  return train.lr * (train.lr_min_ratio + (1 - train.lr_min_ratio) * cosine);
}

double WarmupStableDecay(const TrainSpec& train, int64_t done) {
  const int64_t decay_steps = std::llround(train.decay_ratio * static_cast<double>(train.steps));
  const int64_t stable_end = train.steps - decay_steps;
  if (done <= stable_end) return train.lr;
  const double progress = static_cast<double>(done - stable_end) / static_cast<double>(decay_steps);
  return train.lr * (1 - (1 - train.lr_min_ratio) * progress);
}

}  // namespace

double LearningRate(const TrainSpec& train, int64_t step) {
  const int64_t done = step - 1;
  if (done < train.warmup_steps) {
    return train.lr * static_cast<double>(done) / static_cast<double>(train.warmup_steps);
  }
  return train.schedule == "wsd" ? WarmupStableDecay(train, done) : Cosine(train, done);
}

}  // namespace normlab::trainer
