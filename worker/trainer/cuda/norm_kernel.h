#pragma once

#include "worker/trainer/cuda/team.h"
#include "worker/trainer/model/kernels/cpu_kernels.h"

// The residual sum, its norm and the statistics of both in one pass over memory, and the norm's gradient in another.
// Equations: NormRows and NormGradRows of model/kernels/cpu_kernels.h, whose loops are the reference.
namespace normlab::trainer::cuda {

inline constexpr int kRowStats = 3;  // Variance, mean square, largest magnitude.

/// NormRows on the device, null as there; elements are float or Bfloat16, arithmetic is in float. The stream may be
/// wider than what branches and norms hold (TBranch).
template <typename TBranch, typename TStream, typename TOutput>
struct NormForward {
  int64_t rows;
  int width;
  const TStream* residual;
  float residual_scale;
  const TStream* input;   // Where there is no residual.
  const TBranch* branch;  // Where there is one.
  float branch_scale;
  const TBranch* branch_gain;
  float sum_scale;
  bool rounds_sum;
  TStream* sum;  // Rounded to its type before the norm reads it, as the backward pass will.
  bool has_norm;
  NormFormula formula;
  const TBranch* gain;
  const TBranch* bias;
  const TBranch* alpha;  // [1]
  float output_scale;
  float eps;
  TOutput* output;
  float* inv_rms;       // [rows]
  float* branch_stats;  // [rows, kRowStats]
  float* stream_stats;  // [rows, kRowStats]
};

/// NormGradRows on the device. Sums over rows come as one part per block, which SumParts adds.
template <typename TWeight, typename TGrad, typename TX>
struct NormBackward {
  int64_t rows;
  int width;
  NormFormula formula;
  const TWeight* gain;
  const TWeight* alpha;  // [1]
  float output_scale;
  const TGrad* grad_output;
  const TX* x;
  const float* inv_rms;
  const TX* add;
  float add_scale;
  TX* grad_x;          // Not grad_output.
  float* gain_parts;   // [blocks, width]
  float* bias_parts;   // [blocks, width]; null without a bias.
  float* alpha_parts;  // [blocks]; null but for kDyt.
};

/// a * b summed over rows.
template <typename TA, typename TB>
struct ColumnProducts {
  int64_t rows;
  int width;
  const TA* a;
  const TB* b;
  float* parts;  // [blocks, width]
};

/// The parts of each column, added in their order.
template <typename T>
struct SumParts {
  int num_parts;
  int width;
  const float* parts;  // [num_parts, width]
  T* sums;             // [width]
};

/// Statistics of scale * x over a row.
template <int kLanes, int kPacks, typename Thread>
NORMLAB_DEVICE void WriteRowStats(Team<Thread>& team, const Columns<kLanes, kPacks>& columns, int width,
                                  const float (&x)[kLanes * kPacks], float scale, float* stats) {
  float sum_and_max[2] = {0, 0};
  columns.ForEach([&](int i, int, int) {
    sum_and_max[0] += x[i];
    sum_and_max[1] = Larger(sum_and_max[1], Magnitude(x[i]));
  });
  team.template Reduce<1, 1>(sum_and_max);
  const float mean = sum_and_max[0] / static_cast<float>(width);
  // Around the mean: mean(x^2) - mean^2 loses all digits in a stream whose mean dominates.
  float deviation = 0;
  columns.ForEach([&](int i, int, int) { deviation += (x[i] - mean) * (x[i] - mean); });
  const float variance = team.Sum(deviation) / static_cast<float>(width);
  if (team.member() != 0) return;
  stats[0] = scale * scale * variance;
  stats[1] = scale * scale * (variance + mean * mean);
  stats[2] = Magnitude(scale) * sum_and_max[1];
}

/// The sum, in x and in memory.
template <int kLanes, int kPacks, typename TBranch, typename TStream, typename TOutput, typename Thread>
NORMLAB_DEVICE void AddRow(const NormForward<TBranch, TStream, TOutput>& a, Team<Thread>& team,
                           const Columns<kLanes, kPacks>& columns, int64_t row, float (&x)[kLanes * kPacks]) {
  const int64_t offset = row * a.width;
  columns.Load(a.branch + offset, x);
  // Asked for before the reductions of the statistics, which then hide the wait.
  Pack<TStream, kLanes> residual[kPacks];
  columns.LoadPacks(a.residual + offset, residual);
  if (a.branch_gain != nullptr) {
    Pack<TBranch, kLanes> gain[kPacks];
    columns.LoadPacks(a.branch_gain, gain);
    columns.ForEach([&](int i, int p, int lane) { x[i] *= a.branch_scale * ToFloat(gain[p].values[lane]); });
  } else {
    columns.ForEach([&](int i, int, int) { x[i] *= a.branch_scale; });
  }
  if (a.branch_stats != nullptr) {
    WriteRowStats(team, columns, a.width, x, a.sum_scale, a.branch_stats + row * kRowStats);
  }
  columns.ForEach([&](int i, int p, int lane) {
    x[i] = a.sum_scale * (a.residual_scale * ToFloat(residual[p].values[lane]) + x[i]);
    if (a.rounds_sum) x[i] = ToFloat(ToBfloat16(x[i]));
  });
  columns.Store(a.sum + offset, x);
}

/// From x in x to its norm in x, not yet in memory.
template <int kLanes, int kPacks, typename TBranch, typename TStream, typename TOutput, typename Thread>
NORMLAB_DEVICE void NormalizeRow(const NormForward<TBranch, TStream, TOutput>& a, Team<Thread>& team,
                                 const Columns<kLanes, kPacks>& columns, const Pack<TBranch, kLanes> (&gain)[kPacks],
                                 int64_t row, float (&x)[kLanes * kPacks]) {
  const float dim = static_cast<float>(a.width);
  if (a.formula == NormFormula::kDyt) {
    const float alpha = ToFloat(*a.alpha);
    columns.ForEach(
        [&](int i, int p, int lane) { x[i] = a.output_scale * ToFloat(gain[p].values[lane]) * ::tanhf(alpha * x[i]); });
    return;
  }
  if (a.formula == NormFormula::kLayer) {
    float sum = 0;
    columns.ForEach([&](int i, int, int) { sum += x[i]; });
    const float mean = team.Sum(sum) / dim;
    columns.ForEach([&](int i, int, int) { x[i] -= mean; });
  }
  float square = 0;
  columns.ForEach([&](int i, int, int) { square += x[i] * x[i]; });
  const float inv_rms = 1 / ::sqrtf(team.Sum(square) / dim + a.eps);
  if (team.member() == 0) a.inv_rms[row] = inv_rms;
  const float factor = inv_rms * a.output_scale;
  columns.ForEach([&](int i, int p, int lane) { x[i] *= factor * ToFloat(gain[p].values[lane]); });
}

template <int kLanes, int kPacks, typename TBranch, typename TStream, typename TOutput, typename Thread>
NORMLAB_DEVICE void RunNormForward(const NormForward<TBranch, TStream, TOutput>& a, Thread& thread,
                                   int threads_per_row) {
  Team<Thread> team(thread, threads_per_row);
  const Columns<kLanes, kPacks> columns(team, a.width);
  Pack<TBranch, kLanes> gain[kPacks];
  if (a.has_norm) columns.LoadPacks(a.gain, gain);
  for (int64_t row = team.first_row(); row < a.rows; row += team.row_stride()) {
    float x[kLanes * kPacks];
    if (a.residual != nullptr) {
      AddRow(a, team, columns, row, x);
    } else {
      columns.Load(a.input + row * a.width, x);
    }
    if (a.has_norm) {
      NormalizeRow(a, team, columns, gain, row, x);
      if (a.bias != nullptr) {
        Pack<TBranch, kLanes> bias[kPacks];
        columns.LoadPacks(a.bias, bias);
        columns.ForEach([&](int i, int p, int lane) { x[i] += a.output_scale * ToFloat(bias[p].values[lane]); });
      }
      columns.Store(a.output + row * a.width, x);
    }
    if (a.stream_stats != nullptr) {
      WriteRowStats(team, columns, a.width, x, 1.0f, a.stream_stats + row * kRowStats);
    }
  }
}

/// The sums of a block's teams as its part. All threads of the block must call it.
template <int kLanes, int kPacks, typename Thread>
NORMLAB_DEVICE void WritePart(const Team<Thread>& team, const Columns<kLanes, kPacks>& columns, int width,
                              const float (&sums)[kLanes * kPacks], float* parts) {
  float* part = parts + static_cast<int64_t>(team.thread().block()) * width;
  if (team.num_teams() == 1) {
    columns.ForEach([&](int i, int p, int lane) { part[columns.First(p) + lane] = sums[i]; });
    return;
  }
  float* shared = team.thread().shared() + 2 * kReduceSlots;
  for (int turn = 0; turn < team.num_teams(); ++turn) {
    if (turn == team.team()) {
      const bool is_last = turn == team.num_teams() - 1;
      columns.ForEach([&](int i, int p, int lane) {
        const int column = columns.First(p) + lane;
        const float sum = turn == 0 ? sums[i] : shared[column] + sums[i];
        (is_last ? part : shared)[column] = sum;
      });
    }
    team.thread().Barrier();
  }
}

/// x becomes the gradient by x. Adds the row's part of the sums over rows.
///
/// x and both gradients stay as they lie in memory and are converted at each use: that is cheaper than the registers
/// that their floats would take.
template <int kLanes, int kPacks, typename TWeight, typename TGrad, typename TX, typename Thread>
NORMLAB_DEVICE void RowBackward(const NormBackward<TWeight, TGrad, TX>& a, Team<Thread>& team,
                                const Columns<kLanes, kPacks>& columns, const Pack<TWeight, kLanes> (&gain)[kPacks],
                                int64_t row, Pack<TX, kLanes> (&x)[kPacks], const Pack<TX, kLanes> (&add)[kPacks],
                                const Pack<TGrad, kLanes> (&grad)[kPacks], float (&gain_sums)[kLanes * kPacks],
                                float* alpha_sum) {
  const float dim = static_cast<float>(a.width);
  const auto added = [&](int p, int lane) {
    return a.add != nullptr ? a.add_scale * ToFloat(add[p].values[lane]) : 0.0f;
  };
  if (a.formula == NormFormula::kDyt) {
    const float alpha = ToFloat(*a.alpha);
    columns.ForEach([&](int i, int p, int lane) {
      const float value = ToFloat(x[p].values[lane]);
      const float t = ::tanhf(alpha * value);
      const float scaled = a.output_scale * ToFloat(grad[p].values[lane]);
      const float inner = scaled * ToFloat(gain[p].values[lane]) * (1 - t * t);
      gain_sums[i] += scaled * t;
      *alpha_sum += inner * value;
      x[p].values[lane] = FromFloat<TX>(inner * alpha + added(p, lane));
    });
    return;
  }
  float mean = 0, grad_mean = 0;
  if (a.formula == NormFormula::kLayer) {
    float sums[2] = {0, 0};
    columns.ForEach([&](int, int p, int lane) {
      sums[0] += ToFloat(x[p].values[lane]);
      sums[1] += ToFloat(grad[p].values[lane]) * ToFloat(gain[p].values[lane]);
    });
    team.template Reduce<2, 0>(sums);
    mean = sums[0] / dim;
    grad_mean = sums[1] / dim;
  }
  float dot = 0;
  columns.ForEach([&](int, int p, int lane) {
    dot += ToFloat(grad[p].values[lane]) * ToFloat(gain[p].values[lane]) * (ToFloat(x[p].values[lane]) - mean);
  });
  const float inv_rms = a.inv_rms[row];
  const float factor = inv_rms * a.output_scale;
  const float pull = factor * inv_rms * inv_rms * team.Sum(dot) / dim;
  columns.ForEach([&](int i, int p, int lane) {
    const float centered = ToFloat(x[p].values[lane]) - mean;
    const float scaled = factor * ToFloat(grad[p].values[lane]);
    gain_sums[i] += scaled * centered;
    x[p].values[lane] =
        FromFloat<TX>(scaled * ToFloat(gain[p].values[lane]) - factor * grad_mean - pull * centered + added(p, lane));
  });
}

template <int kLanes, int kPacks, bool kHasBias, typename TWeight, typename TGrad, typename TX, typename Thread>
NORMLAB_DEVICE void RunNormBackward(const NormBackward<TWeight, TGrad, TX>& a, Thread& thread, int threads_per_row) {
  Team<Thread> team(thread, threads_per_row);
  const Columns<kLanes, kPacks> columns(team, a.width);
  constexpr int kValues = kLanes * kPacks;
  Pack<TWeight, kLanes> gain[kPacks];
  columns.LoadPacks(a.gain, gain);
  float gain_sums[kValues] = {};
  float bias_sums[kHasBias ? kValues : 1] = {};
  float alpha_sum = 0;
  for (int64_t row = team.first_row(); row < a.rows; row += team.row_stride()) {
    const int64_t offset = row * a.width;
    Pack<TGrad, kLanes> grad[kPacks];
    Pack<TX, kLanes> x[kPacks], add[kPacks];
    columns.LoadPacks(a.grad_output + offset, grad);
    columns.LoadPacks(a.x + offset, x);
    if (a.add != nullptr) columns.LoadPacks(a.add + offset, add);
    if constexpr (kHasBias) {
      columns.ForEach([&](int i, int p, int lane) { bias_sums[i] += a.output_scale * ToFloat(grad[p].values[lane]); });
    }
    RowBackward(a, team, columns, gain, row, x, add, grad, gain_sums, &alpha_sum);
    columns.StorePacks(a.grad_x + offset, x);
  }
  WritePart(team, columns, a.width, gain_sums, a.gain_parts);
  if constexpr (kHasBias) WritePart(team, columns, a.width, bias_sums, a.bias_parts);
  if (a.alpha_parts == nullptr) return;
  // One team of the whole block, whatever the rows' teams were; its slots are free, as rows of kDyt reduce nothing.
  Team<Thread> block(thread, thread.block_size());
  const float alpha = block.Sum(alpha_sum);
  if (thread.index() == 0) a.alpha_parts[thread.block()] = alpha;
}

template <int kLanes, int kPacks, typename TA, typename TB, typename Thread>
NORMLAB_DEVICE void RunColumnProducts(const ColumnProducts<TA, TB>& a, Thread& thread, int threads_per_row) {
  Team<Thread> team(thread, threads_per_row);
  const Columns<kLanes, kPacks> columns(team, a.width);
  float sums[kLanes * kPacks] = {};
  for (int64_t row = team.first_row(); row < a.rows; row += team.row_stride()) {
    float left[kLanes * kPacks], right[kLanes * kPacks];
    columns.Load(a.a + row * a.width, left);
    columns.Load(a.b + row * a.width, right);
    columns.ForEach([&](int i, int, int) { sums[i] += left[i] * right[i]; });
  }
  WritePart(team, columns, a.width, sums, a.parts);
}

/// A block sums 32 columns, each with one thread of every warp; the warps share the parts.
inline constexpr int kSumPartsThreads = kWarpsMax * kWarpSize;
static_assert(kSumPartsThreads <= kSharedFloats);

template <typename T, typename Thread>
NORMLAB_DEVICE void RunSumParts(const SumParts<T>& a, Thread& thread) {
  const int lane = thread.index() % kWarpSize, warp = thread.index() / kWarpSize;
  const int column = thread.block() * kWarpSize + lane;
  float sum = 0;
  if (column < a.width) {
    for (int part = warp; part < a.num_parts; part += kWarpsMax) {
      sum += a.parts[static_cast<int64_t>(part) * a.width + column];
    }
  }
  float* shared = thread.shared();
  shared[thread.index()] = sum;
  thread.Barrier();
  if (warp != 0 || column >= a.width) return;
  for (int other = 1; other < kWarpsMax; ++other) sum += shared[other * kWarpSize + lane];
  a.sums[column] = FromFloat<T>(sum);
}

}  // namespace normlab::trainer::cuda
