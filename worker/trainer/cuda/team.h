#pragma once

#include <cmath>
#include <cstdint>

#include "worker/trainer/cuda/numbers.h"
#include "worker/trainer/cuda/row_plan.h"

// Threads that share a row. Thread is DeviceThread (device_thread.h) or the tests' EmulatedThread: index(),
// block_size(), block(), num_blocks(), shared() (memory of the block), Barrier(), ShuffleXor(value, mask).
namespace normlab::trainer::cuda {

/// Shared memory, in floats: two turns of slots for reductions, then one row for sums over a block's teams.
inline constexpr int kReduceValuesMax = 2;
inline constexpr int kReduceSlots = kReduceValuesMax * kWarpsMax;
inline constexpr int kTeamsRowMax = kLongRowPacks * kWarpSize * kPackBytes / 2;
inline constexpr int kSharedFloats = 2 * kReduceSlots + kTeamsRowMax;

/// The larger one; NaN is never larger.
NORMLAB_DEVICE float Larger(float a, float b) { return b > a ? b : a; }

NORMLAB_DEVICE float Magnitude(float x) { return x < 0 ? -x : x; }

template <typename Thread>
class Team {
 public:
  NORMLAB_DEVICE Team(Thread& thread, int threads)
      : thread_(thread),
        threads_(threads),
        num_teams_(thread.block_size() / threads),
        team_(thread.index() / threads),
        member_(thread.index() % threads) {}

  NORMLAB_DEVICE int threads() const { return threads_; }
  NORMLAB_DEVICE int member() const { return member_; }
  NORMLAB_DEVICE int team() const { return team_; }
  NORMLAB_DEVICE int num_teams() const { return num_teams_; }

  NORMLAB_DEVICE int64_t first_row() const { return static_cast<int64_t>(thread_.block()) * num_teams_ + team_; }
  NORMLAB_DEVICE int64_t row_stride() const { return static_cast<int64_t>(thread_.num_blocks()) * num_teams_; }

  /// Over the team, the same bits in every thread: values[0, kSums) become sums, those behind them maxima. All threads
  /// of the team must call it, and all of the block where a team has more than one warp.
  template <int kSums, int kMaxima>
  NORMLAB_DEVICE void Reduce(float (&values)[kSums + kMaxima]) {
    static_assert(kSums + kMaxima <= kReduceValuesMax);
    NORMLAB_UNROLL
    for (int i = 0; i < kSums + kMaxima; ++i) {
      NORMLAB_UNROLL
      for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
        const float other = thread_.ShuffleXor(values[i], mask);
        values[i] = i < kSums ? values[i] + other : Larger(values[i], other);
      }
    }
    const int warps = threads_ / kWarpSize;
    if (warps == 1) return;
    // Two turns: who is ahead writes the other slots, and cannot come back before all have read these.
    float* slots = thread_.shared() + turn_ * kReduceSlots;
    turn_ ^= 1;
    if (member_ % kWarpSize == 0) {
      NORMLAB_UNROLL
      for (int i = 0; i < kSums + kMaxima; ++i) slots[i * kWarpsMax + member_ / kWarpSize] = values[i];
    }
    thread_.Barrier();
    NORMLAB_UNROLL
    for (int i = 0; i < kSums + kMaxima; ++i) {
      float total = slots[i * kWarpsMax];
      for (int warp = 1; warp < warps; ++warp) {
        const float other = slots[i * kWarpsMax + warp];
        total = i < kSums ? total + other : Larger(total, other);
      }
      values[i] = total;
    }
  }

  NORMLAB_DEVICE float Sum(float value) {
    float values[1] = {value};
    Reduce<1, 0>(values);
    return values[0];
  }

  NORMLAB_DEVICE Thread& thread() const { return thread_; }

 private:
  Thread& thread_;
  int threads_;
  int num_teams_;
  int team_;
  int member_;
  int turn_ = 0;
};

/// The columns of one thread, at most kPacks packs of kLanes; values in registers are in the order of packs.
template <int kLanes, int kPacks>
class Columns {
 public:
  static constexpr int kValues = kLanes * kPacks;

  template <typename Thread>
  NORMLAB_DEVICE Columns(const Team<Thread>& team, int width)
      : first_(team.member()), stride_(team.threads()), packs_(width / kLanes) {}

  NORMLAB_DEVICE bool Has(int pack) const { return first_ + pack * stride_ < packs_; }
  NORMLAB_DEVICE int First(int pack) const { return (first_ + pack * stride_) * kLanes; }

  template <typename T>
  NORMLAB_DEVICE void LoadPacks(const T* row, Pack<T, kLanes> (&packs)[kPacks]) const {
    NORMLAB_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      if (Has(p)) packs[p] = LoadPack<kLanes>(row + First(p));
    }
  }

  /// Columns beyond the row are left alone.
  template <typename T>
  NORMLAB_DEVICE void Load(const T* row, float (&values)[kValues]) const {
    Pack<T, kLanes> packs[kPacks];
    LoadPacks(row, packs);
    NORMLAB_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      if (!Has(p)) continue;
      NORMLAB_UNROLL
      for (int lane = 0; lane < kLanes; ++lane) values[p * kLanes + lane] = ToFloat(packs[p].values[lane]);
    }
  }

  template <typename T>
  NORMLAB_DEVICE void StorePacks(T* row, const Pack<T, kLanes> (&packs)[kPacks]) const {
    NORMLAB_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      if (Has(p)) StorePack<kLanes>(row + First(p), packs[p]);
    }
  }

  /// `values` become what was stored, rounded to T.
  template <typename T>
  NORMLAB_DEVICE void Store(T* row, float (&values)[kValues]) const {
    NORMLAB_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      if (!Has(p)) continue;
      Pack<T, kLanes> pack;
      NORMLAB_UNROLL
      for (int lane = 0; lane < kLanes; ++lane) {
        pack.values[lane] = FromFloat<T>(values[p * kLanes + lane]);
        values[p * kLanes + lane] = ToFloat(pack.values[lane]);
      }
      StorePack<kLanes>(row + First(p), pack);
    }
  }

  /// Calls function(i, pack, lane) for each of the thread's columns, i = pack * kLanes + lane.
  template <typename Function>
  NORMLAB_DEVICE void ForEach(const Function& function) const {
    NORMLAB_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      if (!Has(p)) continue;
      NORMLAB_UNROLL
      for (int lane = 0; lane < kLanes; ++lane) function(p * kLanes + lane, p, lane);
    }
  }

 private:
  int first_;
  int stride_;
  int packs_;
};

}  // namespace normlab::trainer::cuda
