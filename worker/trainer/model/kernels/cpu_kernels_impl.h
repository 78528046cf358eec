// Bodies of the kernels. Each cpu_kernels_<isa>.cc includes this file once and is compiled for its instruction set.
//
// Nothing from the standard library with a body may be used here: the linker keeps one copy of an inline function, and
// the copy made for the wider instruction set would then run on machines without it.
#pragma once

#include "worker/trainer/model/kernels/cpu_kernels.h"

namespace normlab::trainer {
namespace {

inline float SquareRoot(float x) { return __builtin_sqrtf(x); }
inline double SquareRoot(double x) { return __builtin_sqrt(x); }
inline double Exp(double x) { return __builtin_exp(x); }
inline double Log(double x) { return __builtin_log(x); }

/// exp(x) within 2 units in the last place for |x| <= 87 and clamped outside; NaN stays NaN. Cephes' polynomial, in a
/// form that vectorizes: libm's expf does not, and took most of the time of SwiGLU and of cross entropy.
inline float Exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 87.0f ? 87.0f : x;
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
  return p * scale;
}

template <typename T>
T SumOfSquares(const T* x, int64_t dim) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < dim; ++i) sum += x[i] * x[i];
  return sum;
}

template <typename T>
void AddStreamSums(const T* x, int64_t dim, StreamSums* sums) {
  T sum = 0, square_sum = 0;
#pragma omp simd reduction(+ : sum, square_sum)
  for (int64_t i = 0; i < dim; ++i) {
    sum += x[i];
    square_sum += x[i] * x[i];
  }
  const T mean = sum / static_cast<T>(dim);
  // Around the mean: mean(x^2) - mean^2 loses all digits in a stream whose mean dominates.
  T deviation_sum = 0;
#pragma omp simd reduction(+ : deviation_sum)
  for (int64_t i = 0; i < dim; ++i) deviation_sum += (x[i] - mean) * (x[i] - mean);
  sums->mean_square += static_cast<double>(square_sum) / static_cast<double>(dim);
  sums->variance += static_cast<double>(deviation_sum) / static_cast<double>(dim);
}

template <typename T>
void Norm(const NormRows<T>& a) {
  const int64_t dim = a.dim;
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* branch = a.branch + row * dim;
    const T* x = branch;
    if (a.branch_square_sum != nullptr) {
      *a.branch_square_sum += static_cast<double>(SumOfSquares(branch, dim)) / static_cast<double>(dim);
    }
    T square_sum = 0;
    if (a.residual != nullptr) {
      const T* residual = a.residual + row * dim;
      T* sum = a.sum + row * dim;
#pragma omp simd reduction(+ : square_sum)
      for (int64_t i = 0; i < dim; ++i) {
        const T value = a.residual_scale * residual[i] + branch[i];
        sum[i] = value;
        square_sum += value * value;
      }
      x = sum;
    } else {
      square_sum = SumOfSquares(x, dim);
    }
    if (a.gain != nullptr) {
      T* output = a.output + row * dim;
      const T inv_rms = 1 / SquareRoot(square_sum / static_cast<T>(dim) + a.eps);
      const T factor = inv_rms * a.output_scale;
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) output[i] = x[i] * factor * a.gain[i];
      a.inv_rms[row] = inv_rms;
      x = output;
    }
    if (a.stream_sums != nullptr) AddStreamSums(x, dim, a.stream_sums);
  }
}

// With r = inv_rms, s = output_scale and y = s r gain x:
//   dx = r s gain dy - r^3 x mean(s gain dy x),   dgain = s r x dy summed over rows.
template <typename T>
void NormGrad(const NormGradRows<T>& a) {
  const int64_t dim = a.dim;
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* grad = a.grad_output + row * dim;
    const T* x = a.x + row * dim;
    T* grad_x = a.grad_x + row * dim;
    T dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < dim; ++i) dot += grad[i] * a.gain[i] * x[i];
    const T inv_rms = a.inv_rms[row];
    const T factor = inv_rms * a.output_scale;
    const T pull = factor * inv_rms * inv_rms * dot / static_cast<T>(dim);
    if (a.add != nullptr) {
      const T* add = a.add + row * dim;
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) {
        const T scaled = factor * grad[i];
        a.grad_gain[i] += scaled * x[i];
        grad_x[i] = scaled * a.gain[i] - pull * x[i] + add[i];
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) {
        const T scaled = factor * grad[i];
        a.grad_gain[i] += scaled * x[i];
        grad_x[i] = scaled * a.gain[i] - pull * x[i];
      }
    }
  }
}

template <typename T>
void Rotate(const RotateRows<T>& a) {
  const int64_t half = a.head_dim / 2;
  const int64_t width = a.heads * a.head_dim;
  for (int64_t row = a.first_row; row < a.first_row + a.rows; ++row) {
    const T* cosine = a.cosine + (row % a.seq) * half;
    const T* sine = a.sine + (row % a.seq) * half;
    // Query and key heads lie one after another.
    for (int64_t head = 0; head < 2 * a.heads; ++head) {
      T* low = a.qkv + row * 3 * width + head * a.head_dim;
      T* high = low + half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const T x = low[i], y = high[i];
        low[i] = x * cosine[i] - y * sine[i];
        high[i] = y * cosine[i] + x * sine[i];
      }
    }
  }
}

template <typename T>
void UnrotateHeads(const RotateRows<T>& a, const T* cosine, const T* sine, const T* from, T* to) {
  const int64_t half = a.head_dim / 2;
  for (int64_t head = 0; head < a.heads; ++head) {
    const T* low = from + head * a.head_dim;
    T* out = to + head * a.head_dim;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const T x = low[i], y = low[half + i];
      out[i] = x * cosine[i] + y * sine[i];
      out[half + i] = y * cosine[i] - x * sine[i];
    }
  }
}

template <typename T>
void Unrotate(const UnrotateRows<T>& a) {
  const int64_t half = a.to.head_dim / 2;
  const int64_t width = a.to.heads * a.to.head_dim;
  for (int64_t row = a.to.first_row; row < a.to.first_row + a.to.rows; ++row) {
    const T* cosine = a.to.cosine + (row % a.to.seq) * half;
    const T* sine = a.to.sine + (row % a.to.seq) * half;
    T* out = a.to.qkv + row * 3 * width;
    UnrotateHeads(a.to, cosine, sine, a.grad_query + row * width, out);
    UnrotateHeads(a.to, cosine, sine, a.grad_key + row * width, out + width);
    __builtin_memcpy(out + 2 * width, a.grad_value + row * width, static_cast<uint64_t>(width) * sizeof(T));
  }
}

template <typename T>
void SwiGlu(const SwiGluRows<T>& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* gate = a.gate_up + row * 2 * a.dim;
    const T* up = gate + a.dim;
    T* output = a.output + row * a.dim;
#pragma omp simd
    for (int64_t i = 0; i < a.dim; ++i) output[i] = gate[i] / (1 + Exp(-gate[i])) * up[i];
  }
}

template <typename T>
void SwiGluGrad(const SwiGluGradRows<T>& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    T* gate = a.gate_up + row * 2 * a.dim;
    T* up = gate + a.dim;
    T* output = a.output + row * a.dim;
#pragma omp simd
    for (int64_t i = 0; i < a.dim; ++i) {
      const T grad = output[i];
      const T sigmoid = 1 / (1 + Exp(-gate[i]));
      const T silu = gate[i] * sigmoid;
      output[i] = silu * up[i];
      gate[i] = grad * up[i] * (sigmoid + silu * (1 - sigmoid));
      up[i] = grad * silu;
    }
  }
}

template <typename T>
void CrossEntropy(const CrossEntropyRows<T>& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    T* logits = a.logits + row * a.vocab;
    const int64_t target = a.targets[row];
    T largest = logits[0];
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < a.vocab; ++i) largest = logits[i] > largest ? logits[i] : largest;
    const T target_logit = logits[target] - largest;
    T sum = 0;
    if (a.wants_grad) {
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < a.vocab; ++i) {
        logits[i] = Exp(logits[i] - largest);
        sum += logits[i];
      }
      const T factor = a.grad_scale / sum;
#pragma omp simd
      for (int64_t i = 0; i < a.vocab; ++i) logits[i] *= factor;
      logits[target] -= a.grad_scale;
    } else {
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < a.vocab; ++i) sum += Exp(logits[i] - largest);
    }
    *a.loss_sum += Log(static_cast<double>(sum)) - static_cast<double>(target_logit);
  }
}

template <typename T>
constexpr CpuKernels<T> kKernels = {.norm = Norm<T>,
                                    .norm_grad = NormGrad<T>,
                                    .rotate = Rotate<T>,
                                    .unrotate = Unrotate<T>,
                                    .swiglu = SwiGlu<T>,
                                    .swiglu_grad = SwiGluGrad<T>,
                                    .cross_entropy = CrossEntropy<T>};

}  // namespace
}  // namespace normlab::trainer
