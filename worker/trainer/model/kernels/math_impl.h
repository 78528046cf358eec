// Part of cpu_kernels_impl.h: compiled once per instruction set, so nothing from the standard library with a body.
#pragma once

#include <cstdint>

namespace normlab::trainer {
namespace {

inline float SquareRoot(float x) { return __builtin_sqrtf(x); }
inline double SquareRoot(double x) { return __builtin_sqrt(x); }
inline double Exp(double x) { return __builtin_exp(x); }
inline double Log(double x) { return __builtin_log(x); }
inline double Tanh(double x) { return __builtin_tanh(x); }

/// To the nearest number with 8 significant bits, ties to even. NaN stays NaN.
inline float RoundToBfloat16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  float y;
  __builtin_memcpy(&y, &rounded, sizeof(y));
  return x == x ? y : x;
}

/// exp(x) within 2 units in the last place, |x| clamped to 87; NaN gives NaN, and so does an infinity. Cephes'
/// polynomial, in a form that vectorizes: libm's expf does not, and took most of the time of SwiGLU and of cross
/// entropy.
inline float Exp(float unclamped) {
  // The clamp works on the bits, where an order of positive floats is that of integers: from comparisons of floats, GCC
  // makes branches with constant results and then computes all of them.
  int32_t bits;
  __builtin_memcpy(&bits, &unclamped, sizeof(bits));
  const int32_t magnitude = bits & 0x7fffffff;
  constexpr int32_t kMagnitudeMax = 0x42ae0000;  // 87
  bits = (bits ^ magnitude) | (magnitude < kMagnitudeMax ? magnitude : kMagnitudeMax);
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  constexpr float kRounder =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, on machines without roundps too.
  const float n = (x * 1.44269504088896341f + kRounder) - kRounder;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t power = (static_cast<int32_t>(n) + 127) * (1 << 23);
  float scale;
  __builtin_memcpy(&scale, &power, sizeof(scale));
  return p * scale + 0 * unclamped;
}

/// Within 4 units in the last place. Near 0 the quotient of exponentials has no digits left: there it is Cephes'
/// polynomial.
inline float Tanh(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float near_zero = p * z * x + x;
  const float far = 1 - 2 / (Exp(2 * x) + 1);
  return z < 0.390625f ? near_zero : far;
}

}  // namespace
}  // namespace normlab::trainer
