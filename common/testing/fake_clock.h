// A clock that stands still until a test moves it.
#pragma once

#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/clock.h"

namespace normlab {

/// Both times move together with Advance; JumpWall moves the time of day alone. Safe to call from any thread.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time now = absl::FromUnixSeconds(1'700'000'000)) : wall_(now) {}

  absl::Time Now() const override {
    const std::scoped_lock lock(mutex_);
    return wall_;
  }
  absl::Time SteadyNow() const override {
    const std::scoped_lock lock(mutex_);
    return steady_;
  }

  void Advance(absl::Duration by) {
    const std::scoped_lock lock(mutex_);
    wall_ += by;
    steady_ += by;
  }
  /// As when somebody sets the host's clock; `by` may be negative.
  void JumpWall(absl::Duration by) {
    const std::scoped_lock lock(mutex_);
    wall_ += by;
  }

 private:
  mutable std::mutex mutex_;
  absl::Time wall_ ABSL_GUARDED_BY(mutex_);
  // Not the same origin as the wall's: code that mixes the two shows up in tests.
  absl::Time steady_ ABSL_GUARDED_BY(mutex_) = absl::UnixEpoch() + absl::Hours(1);
};

}  // namespace normlab
