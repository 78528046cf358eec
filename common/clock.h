// Time comes in through this interface, so that everything which waits or expires can be tested without waiting.
#pragma once

#include "absl/time/time.h"

namespace normlab {

/// Where "now" comes from. Safe to call from any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  /// Time of day. May jump when the host's clock is set; use it for what people read and for what is stored.
  virtual absl::Time Now() const = 0;
  /// Never goes back and never jumps; its origin is arbitrary. Use it for leases, timeouts and rates.
  virtual absl::Time SteadyNow() const = 0;
};

/// The host's clocks.
class RealClock final : public Clock {
 public:
  absl::Time Now() const override;
  absl::Time SteadyNow() const override;
};

}  // namespace normlab
