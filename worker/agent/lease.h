// The worker's side of the lease: until when it may train without hearing from the coordinator. Pure; times are steady.
#pragma once

#include <algorithm>
#include <deque>
#include <optional>

#include "absl/time/time.h"

namespace normlab::agent {

/// Counts from the *sending* of what was answered, so that it never ends later here than at the coordinator, which
/// counts from the arrival. One thread.
class Lease {
 public:
  /// The coordinator answered a hello that was sent at `sent_at`.
  void Grant(absl::Time sent_at, absl::Duration length) {
    length_ = length;
    Extend(sent_at);
  }

  void HeartbeatSent(absl::Time at) { unanswered_.push_back(at); }

  /// The coordinator answered a heartbeat: answers come in the order of the heartbeats. False if none was unanswered.
  bool Renewed() {
    if (unanswered_.empty()) return false;
    Extend(unanswered_.front());
    unanswered_.pop_front();
    return true;
  }

  /// The stream ended: what was sent on it is never answered. The lease goes on.
  void Disconnected() { unanswered_.clear(); }

  /// Whether a lease was ever granted and ended without a renewal; a lease is over at its expiry itself.
  bool IsOver(absl::Time now) const { return expires_at_ && now >= *expires_at_; }

  /// Zero without a lease or after its end.
  absl::Duration Remaining(absl::Time now) const {
    return expires_at_ ? std::max(absl::ZeroDuration(), *expires_at_ - now) : absl::ZeroDuration();
  }

  const std::optional<absl::Time>& expires_at() const { return expires_at_; }
  absl::Duration length() const { return length_; }

  /// When the heartbeat was sent that waits longest for its answer.
  std::optional<absl::Time> oldest_unanswered() const {
    return unanswered_.empty() ? std::nullopt : std::optional(unanswered_.front());
  }

 private:
  void Extend(absl::Time from) {
    const absl::Time until = from + length_;
    expires_at_ = expires_at_ ? std::max(*expires_at_, until) : until;
  }

  absl::Duration length_;
  std::optional<absl::Time> expires_at_;
  std::deque<absl::Time> unanswered_;
};

}  // namespace normlab::agent
