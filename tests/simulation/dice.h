#pragma once

#include <absl/time/time.h>

#include <cstdint>

namespace normlab::simulation {

/// All randomness of a simulation. The same numbers on every platform, which the distributions of <random> do not
/// promise (splitmix64 of Steele, Lea and Flood, OOPSLA 2014).
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  /// From 0 up to and without 1.
  double Real() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  bool Chance(double probability) { return Real() < probability; }
  /// 0 to n - 1.
  int Below(int n) { return static_cast<int>(Next() % static_cast<uint64_t>(n)); }
  /// Both ends included.
  int Between(int low, int high) { return low + Below(high - low + 1); }
  /// In whole microseconds.
  absl::Duration Between(absl::Duration low, absl::Duration high) {
    const uint64_t span = static_cast<uint64_t>(absl::ToInt64Microseconds(high - low));
    return low + absl::Microseconds(span == 0 ? 0 : static_cast<int64_t>(Next() % (span + 1)));
  }
  /// Others that draw from it do not change what this one gives afterwards.
  Dice Split() { return Dice(Next()); }

 private:
  uint64_t state_;
};

}  // namespace normlab::simulation
