#include "worker/trainer/train/flat_kernels.h"

// Compiled with -fopenmp-simd at every build type. Bodies are inlined into one function per instruction set, and
// nothing from the standard library with a body may be used in them: the linker keeps one copy of an inline function.
#if defined(__x86_64__)
#define NORMLAB_WIDE __attribute__((target("avx2,fma")))
#else
#define NORMLAB_WIDE
#endif
#define NORMLAB_INLINE inline __attribute__((always_inline))

namespace normlab::trainer {
namespace {

bool HasWideVectors() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
#else
  return false;
#endif
}

NORMLAB_INLINE float Rounded(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  __builtin_memcpy(&value, &bits, sizeof(bits));
  return value;
}

template <Rounding kRounding>
NORMLAB_INLINE void Update(const AdamRange& a) {
  float* const weights = a.weights;
  float* const full = kRounding == Rounding::kWeights ? a.master : a.weights;
  const float beta1_rest = 1 - a.beta1, beta2_rest = 1 - a.beta2, inverse_root = 1 / a.root_correction;
#pragma omp simd
  for (int64_t i = 0; i < a.count; ++i) {
    float g = a.gradients[i] * a.grad_scale;
    if constexpr (kRounding == Rounding::kAll) g = Rounded(g);
    float w = full[i];
    g += a.l2 * w;
    const float m = a.beta1 * a.exp_avg[i] + beta1_rest * g;
    const float v = a.beta2 * a.exp_avg_sq[i] + beta2_rest * g * g;
    w = a.weight_factor * w - a.step_size * m / (__builtin_sqrtf(v) * inverse_root + a.eps);
    a.exp_avg[i] = kRounding == Rounding::kAll ? Rounded(m) : m;
    a.exp_avg_sq[i] = kRounding == Rounding::kAll ? Rounded(v) : v;
    if constexpr (kRounding == Rounding::kWeights) full[i] = w;
    weights[i] = kRounding == Rounding::kNone ? w : Rounded(w);
  }
}

NORMLAB_INLINE void UpdateAny(const AdamRange& range) {
  switch (range.rounding) {
    case Rounding::kNone:
      return Update<Rounding::kNone>(range);
    case Rounding::kWeights:
      return Update<Rounding::kWeights>(range);
    case Rounding::kAll:
      return Update<Rounding::kAll>(range);
  }
}

NORMLAB_INLINE double Squares(const float* values, int64_t count) {
  constexpr int64_t kSums = 16;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
#pragma omp simd
    for (int64_t lane = 0; lane < kSums; ++lane) {
      const double value = values[i + lane];
      sums[lane] += value * value;
    }
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  for (; i < count; ++i) total += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  return total;
}

NORMLAB_INLINE void RoundAll(float* values, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) values[i] = Rounded(values[i]);
}

NORMLAB_WIDE void UpdateWide(const AdamRange& range) { UpdateAny(range); }
NORMLAB_WIDE double SquaresWide(const float* values, int64_t count) { return Squares(values, count); }
NORMLAB_WIDE void RoundWide(float* values, int64_t count) { RoundAll(values, count); }

}  // namespace

void AdamUpdate(const AdamRange& range) { HasWideVectors() ? UpdateWide(range) : UpdateAny(range); }

double SumOfSquares(const float* values, int64_t count) {
  return HasWideVectors() ? SquaresWide(values, count) : Squares(values, count);
}

void RoundToBfloat16(float* values, int64_t count) {
  HasWideVectors() ? RoundWide(values, count) : RoundAll(values, count);
}

}  // namespace normlab::trainer
