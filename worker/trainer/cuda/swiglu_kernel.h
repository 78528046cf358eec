#pragma once

#include "worker/trainer/cuda/team.h"

// silu(gate) * up and its gradient, as SwiGluRows and SwiGluGradRows of model/kernels/cpu_kernels.h.
namespace normlab::trainer::cuda {

template <typename T>
struct SwiGluForward {
  int64_t rows;
  int64_t width;
  const T* gate_up;  // [rows, 2, width]
  T* output;         // [rows, width]
};

template <typename T>
struct SwiGluBackward {
  int64_t rows;
  int64_t width;
  T* gate_up;  // Becomes its own gradient.
  T* output;   // The gradient of the output; becomes the output, which the next gradient needs.
};

/// One block to a row at a time, one pack to a thread at a time.
inline int SwiGluThreads(int64_t width, int lanes) {
  const int64_t packs = width / lanes;
  return static_cast<int>(std::min<int64_t>((packs + kWarpSize - 1) / kWarpSize, kWarpsMax)) * kWarpSize;
}

inline int SwiGluBlocks(int64_t rows) { return static_cast<int>(std::min<int64_t>(rows, 132 * 32)); }

template <typename T, int kLanes, typename Thread>
NORMLAB_DEVICE void RunSwiGluForward(const SwiGluForward<T>& a, Thread& thread) {
  for (int64_t row = thread.block(); row < a.rows; row += thread.num_blocks()) {
    const T* gates = a.gate_up + row * 2 * a.width;
    for (int64_t i = static_cast<int64_t>(thread.index()) * kLanes; i < a.width; i += thread.block_size() * kLanes) {
      const Pack<T, kLanes> gate = LoadPack<kLanes>(gates + i), up = LoadPack<kLanes>(gates + a.width + i);
      Pack<T, kLanes> output;
      NORMLAB_UNROLL
      for (int lane = 0; lane < kLanes; ++lane) {
        const float g = ToFloat(gate.values[lane]);
        output.values[lane] = FromFloat<T>(g / (1 + ::expf(-g)) * ToFloat(up.values[lane]));
      }
      StorePack<kLanes>(a.output + row * a.width + i, output);
    }
  }
}

template <typename T, int kLanes, typename Thread>
NORMLAB_DEVICE void RunSwiGluBackward(const SwiGluBackward<T>& a, Thread& thread) {
  for (int64_t row = thread.block(); row < a.rows; row += thread.num_blocks()) {
    T* gates = a.gate_up + row * 2 * a.width;
    for (int64_t i = static_cast<int64_t>(thread.index()) * kLanes; i < a.width; i += thread.block_size() * kLanes) {
      Pack<T, kLanes> gate = LoadPack<kLanes>(gates + i), up = LoadPack<kLanes>(gates + a.width + i);
      Pack<T, kLanes> output = LoadPack<kLanes>(a.output + row * a.width + i);
      NORMLAB_UNROLL
      for (int lane = 0; lane < kLanes; ++lane) {
        const float g = ToFloat(gate.values[lane]), u = ToFloat(up.values[lane]), grad = ToFloat(output.values[lane]);
        const float sigmoid = 1 / (1 + ::expf(-g));
        const float silu = g * sigmoid;
        output.values[lane] = FromFloat<T>(silu * u);
        gate.values[lane] = FromFloat<T>(grad * u * (sigmoid + silu * (1 - sigmoid)));
        up.values[lane] = FromFloat<T>(grad * silu);
      }
      StorePack<kLanes>(gates + i, gate);
      StorePack<kLanes>(gates + a.width + i, up);
      StorePack<kLanes>(a.output + row * a.width + i, output);
    }
  }
}

}  // namespace normlab::trainer::cuda
