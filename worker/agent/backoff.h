// How long to wait before the next try. Pure.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>

#include "absl/time/time.h"

namespace normlab::agent {

/// Doubles from `min` to `max`; each wait is drawn between half of that and all of it, so that a thousand workers that
/// lost one coordinator do not come back in the same instant. The first try after Reset is immediate.
class Backoff {
 public:
  Backoff(absl::Duration min, absl::Duration max, uint64_t seed) : min_(min), max_(max), random_(seed) {}

  void Reset() { bound_ = absl::ZeroDuration(); }

  absl::Duration Next() {
    const absl::Duration wait = bound_ * std::uniform_real_distribution<double>(0.5, 1.0)(random_);
    bound_ = std::clamp(2 * bound_, min_, max_);
    return wait;
  }

 private:
  absl::Duration min_;
  absl::Duration max_;
  absl::Duration bound_;  // Of the next wait.
  std::mt19937_64 random_;
};

}  // namespace normlab::agent
