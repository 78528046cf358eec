#pragma once

#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "common/clock.h"

namespace normlab::simulation {

/// Virtual time: what is to happen, in order. Of one moment, what was planned first happens first.
class Timeline {
 public:
  using Action = std::function<void()>;

  absl::Time now() const { return now_; }

  /// Rounded up to whole microseconds: a host's clock has no finer ones than nanoseconds.
  void At(absl::Time when, Action action) {
    const absl::Time whole = absl::UnixEpoch() + absl::Ceil(when - absl::UnixEpoch(), absl::Microseconds(1));
    events_.push({std::max(whole, now_), next_order_++, std::move(action)});
  }
  void After(absl::Duration delay, Action action) { At(now_ + delay, std::move(action)); }

  /// Lets the next event happen; false if there is none up to `until`, to which time goes on then.
  bool RunNext(absl::Time until) {
    if (events_.empty() || events_.top().when > until) {
      now_ = std::max(now_, until);
      return false;
    }
    const Action action = std::move(const_cast<Event&>(events_.top()).action);
    now_ = events_.top().when;
    events_.pop();
    action();
    return true;
  }

 private:
  struct Event {
    absl::Time when;
    uint64_t order;
    Action action;
  };
  struct IsLater {
    bool operator()(const Event& a, const Event& b) const {
      return a.when != b.when ? a.when > b.when : a.order > b.order;
    }
  };

  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  uint64_t next_order_ = 0;
  std::priority_queue<Event, std::vector<Event>, IsLater> events_;
};

/// The clocks of one host: steady time has an origin of its own, and the time of day can be set.
class HostClock final : public Clock {
 public:
  HostClock(const Timeline& timeline, absl::Duration origin) : timeline_(timeline), origin_(origin) {}

  absl::Time Now() const override { return timeline_.now() + wall_error_; }
  absl::Time SteadyNow() const override { return begin_ - origin_ + rate_ * (timeline_.now() - begin_); }

  /// A clock that goes wrong: shows so many seconds for one.
  void SetRate(double rate) { rate_ = rate; }
  void SetWallError(absl::Duration error) { wall_error_ = error; }

 private:
  const Timeline& timeline_;
  const absl::Duration origin_;
  const absl::Time begin_ = timeline_.now();
  double rate_ = 1;
  absl::Duration wall_error_;
};

}  // namespace normlab::simulation
