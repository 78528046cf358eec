#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "worker/trainer/cuda/numbers.h"

// Which threads hold which columns of which rows. Plain arithmetic of shapes: nothing here depends on the card, so that
// the order of every sum, and with it every bit, is the same on each.
namespace normlab::trainer::cuda {

/// The widest row that fits the registers of one block.
inline constexpr int kWidthMax = 8192;
inline constexpr int kWarpSize = 32;
inline constexpr int kWarpsMax = 16;  // Of one block.

/// Rows are held in registers: thread t of a row's team holds packs t, t + threads, ... of `lanes` elements each.
struct RowPlan {
  int lanes;    // Elements per load.
  int packs;    // Per thread, at most.
  int threads;  // Per row.
  int rows;     // That a block holds at once.

  int BlockThreads() const { return threads * rows; }
};

/// Elements per pack for rows of `width` elements at these addresses (null ones do not count), the smallest of which
/// have `element_bytes`.
inline int LanesOf(int64_t width, int element_bytes, std::initializer_list<const void*> addresses) {
  const int lanes = kPackBytes / element_bytes;
  if (width % lanes != 0) return 1;
  for (const void* address : addresses) {
    if (reinterpret_cast<uintptr_t>(address) % kPackBytes != 0) return 1;
  }
  return lanes;
}

inline constexpr int kShortRowPacks = 2;
inline constexpr int kLongRowPacks = 4;
inline constexpr int kSinglePacks = 16;  // Where a load is one element.

/// 1 <= width <= kWidthMax.
inline RowPlan PlanRows(int64_t width, int lanes) {
  const int row_packs = static_cast<int>(width) / lanes;
  RowPlan plan = {.lanes = lanes, .packs = kSinglePacks, .threads = 0, .rows = 1};
  if (lanes > 1) plan.packs = row_packs <= kShortRowPacks * kWarpSize ? kShortRowPacks : kLongRowPacks;
  const int per_warp = plan.packs * kWarpSize;
  plan.threads = (row_packs + per_warp - 1) / per_warp * kWarpSize;
  // Blocks of one warp would leave half of a multiprocessor's warps empty.
  if (plan.threads == kWarpSize) plan.rows = 4;
  return plan;
}

/// The most threads of a block that PlanRows gives for these numbers; what the compiler may divide the registers by.
constexpr int BlockThreadsMax(int lanes, int packs) {
  if (packs == kShortRowPacks) return 4 * kWarpSize;
  return std::max(4 * kWarpSize, kWidthMax / (lanes * packs));
}

/// What the compiler may give a thread: enough for a row's share without spilling, few enough for 12 warps on a
/// multiprocessor, whose loads in flight cover the memory's latency.
constexpr int RegistersMax(int lanes, int packs) {
  return packs == kShortRowPacks ? 112 : std::min(168, 65536 / BlockThreadsMax(lanes, packs));
}

/// Blocks of a multiprocessor, which has 65536 registers.
constexpr int ResidentBlocks(int block_threads, int registers) {
  return std::max(1, 65536 / (registers * block_threads));
}

/// As many blocks as run at once: each goes on from row to row, and one more than fit would run alone at the end. A sum
/// over rows is one part per block, added in order: the same bits every time on cards of one kind.
inline int NumBlocks(int64_t rows, const RowPlan& plan, int multiprocessors) {
  const int resident = ResidentBlocks(plan.BlockThreads(), RegistersMax(plan.lanes, plan.packs));
  return static_cast<int>(std::min<int64_t>((rows + plan.rows - 1) / plan.rows, multiprocessors * resident));
}

/// Calls function.template operator()<lanes, packs>() for the plan's numbers, whose lanes are 1 or kFullLanes.
template <int kFullLanes, typename Function>
void WithPlan(const RowPlan& plan, const Function& function) {
  if (plan.lanes == 1) {
    function.template operator()<1, kSinglePacks>();
  } else if (plan.packs == kShortRowPacks) {
    function.template operator()<kFullLanes, kShortRowPacks>();
  } else {
    function.template operator()<kFullLanes, kLongRowPacks>();
  }
}

}  // namespace normlab::trainer::cuda
