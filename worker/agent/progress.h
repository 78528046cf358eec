// Whether a trainer still gets on. Pure; one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace normlab::agent {

/// Counts the time since a trainer reported something. A loss of time in one rank stops all others at the next
/// all-reduce, so that rank 0, which reports, stands for its gang.
class ProgressWatch {
 public:
  struct Options {
    absl::Duration timeout = absl::ZeroDuration();  // Zero: never stuck.
    int64_t steps_per_report = 1;                   // Steps of which the trainer reports one.
  };

  ProgressWatch(const Options& options, absl::Time now) : options_(options), seen_at_(now) {}

  void See(absl::Time now) {
    // The first gap is the trainer's start.
    if (has_started_) longest_gap_ = std::max(longest_gap_.value_or(absl::ZeroDuration()), now - seen_at_);
    has_started_ = true;
    seen_at_ = now;
  }

  /// From when it is held to be stuck. Before it is known how long a report takes, each step may take the timeout;
  /// afterwards a report may take the timeout, or five times the longest so far: slow is not stuck.
  absl::Time due() const {
    if (options_.timeout <= absl::ZeroDuration()) return absl::InfiniteFuture();
    if (!longest_gap_) return seen_at_ + options_.timeout * std::max<int64_t>(1, options_.steps_per_report);
    return seen_at_ + std::max(options_.timeout, 5 * *longest_gap_);
  }

  absl::Time seen_at() const { return seen_at_; }

 private:
  Options options_;
  absl::Time seen_at_;
  bool has_started_ = false;
  std::optional<absl::Duration> longest_gap_;
};

}  // namespace normlab::agent
