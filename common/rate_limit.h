// Bounds how fast something may happen. Pure; one thread.
#pragma once

#include <algorithm>
#include <optional>

#include "absl/time/time.h"

namespace normlab {

/// A bucket of `burst` tokens, filled by `per_second`.
class RateLimit {
 public:
  RateLimit(double per_second, double burst) : per_second_(per_second), burst_(burst), tokens_(burst) {}

  /// Takes a token; false if there is none.
  bool Allow(absl::Time now) {
    if (last_) tokens_ = std::min(burst_, tokens_ + absl::ToDoubleSeconds(now - *last_) * per_second_);
    last_ = now;
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }

 private:
  double per_second_;
  double burst_;
  double tokens_;
  std::optional<absl::Time> last_;
};

}  // namespace normlab
