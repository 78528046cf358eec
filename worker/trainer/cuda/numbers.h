#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#define NORMLAB_DEVICE __device__ __forceinline__
#define NORMLAB_UNROLL _Pragma("unroll")
#else
#define NORMLAB_DEVICE inline
#define NORMLAB_UNROLL
#endif

// Elements in memory and their values in registers. The kernels' bodies are compiled twice: by nvcc for the device and
// by the C++ compiler for the tests, where testing/emulated_grid.h plays the device.
namespace normlab::trainer::cuda {

/// As in memory; arithmetic is in float.
struct Bfloat16 {
  uint16_t bits;
};

NORMLAB_DEVICE float ToFloat(float x) { return x; }

NORMLAB_DEVICE float ToFloat(Bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  __builtin_memcpy(&y, &bits, sizeof(y));
  return y;
}

/// To the nearest bfloat16, ties to even; NaN stays NaN.
NORMLAB_DEVICE Bfloat16 ToBfloat16(float x) {
#ifdef __CUDACC__
  return {__nv_bfloat16_raw(__float2bfloat16_rn(x)).x};
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  if (x != x) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
#endif
}

template <typename T>
NORMLAB_DEVICE T FromFloat(float x);
template <>
NORMLAB_DEVICE float FromFloat<float>(float x) {
  return x;
}
template <>
NORMLAB_DEVICE Bfloat16 FromFloat<Bfloat16>(float x) {
  return ToBfloat16(x);
}

/// The most that one instruction loads or stores.
inline constexpr int kPackBytes = 16;

/// Neighbours in a row that a thread holds: loads of 16 bytes where width and addresses allow it, else one element.
template <typename T, int kLanes>
struct alignas(sizeof(T) * kLanes < kPackBytes ? sizeof(T) * kLanes : kPackBytes) Pack {
  T values[kLanes];
};

template <int kLanes, typename T>
NORMLAB_DEVICE Pack<T, kLanes> LoadPack(const T* from) {
  return *reinterpret_cast<const Pack<T, kLanes>*>(from);
}

template <int kLanes, typename T>
NORMLAB_DEVICE void StorePack(T* to, const Pack<T, kLanes>& pack) {
  *reinterpret_cast<Pack<T, kLanes>*>(to) = pack;
}

}  // namespace normlab::trainer::cuda
