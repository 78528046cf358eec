#include "common/clock.h"

#include <chrono>

#include "absl/time/clock.h"

namespace normlab {

absl::Time RealClock::Now() const { return absl::Now(); }

absl::Time RealClock::SteadyNow() const {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace normlab
