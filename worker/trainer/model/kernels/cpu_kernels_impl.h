// Bodies of the kernels. Each cpu_kernels_<isa>.cc includes this file once and is compiled for its instruction set.
//
// Nothing from the standard library with a body may be used here: the linker keeps one copy of an inline function, and
// the copy made for the wider instruction set would then run on machines without it.
#pragma once

#include "worker/trainer/model/kernels/attention_impl.h"
#include "worker/trainer/model/kernels/cpu_kernels.h"
#include "worker/trainer/model/kernels/math_impl.h"

namespace normlab::trainer {
namespace {

/// Sum of term(i) for i < n, as 32 sums side by side: one vector of sums would wait for its own addition each time.
template <typename T, typename Term>
inline T Sum(int64_t n, const Term& term) {
  constexpr int64_t kSums = 32;
  T sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
#pragma omp simd
    for (int64_t j = 0; j < kSums; ++j) sums[j] += term(i + j);
  }
  T sum = 0;
  for (; i < n; ++i) sum += term(i);
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < kSums; ++j) sum += sums[j];
  return sum;
}

template <typename T>
T MeanSquare(const T* x, int64_t dim) {
  return Sum<T>(dim, [=](int64_t i) { return x[i] * x[i]; }) / static_cast<T>(dim);
}

template <typename T>
void AddStreamSums(const T* x, int64_t dim, StreamSums* sums) {
  const T mean = Sum<T>(dim, [=](int64_t i) { return x[i]; }) / static_cast<T>(dim);
  // Around the mean: mean(x^2) - mean^2 loses all digits in a stream whose mean dominates.
  const T deviation_sum = Sum<T>(dim, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  const double variance = static_cast<double>(deviation_sum) / static_cast<double>(dim);
  sums->variance += variance;
  sums->mean_square += variance + static_cast<double>(mean) * static_cast<double>(mean);
}

template <typename T>
void Norm(const NormRows<T>& a) {
  const int64_t dim = a.dim;
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* branch = a.branch + row * dim;
    const T* x = branch;
    if (a.branch_square_sum != nullptr) *a.branch_square_sum += static_cast<double>(MeanSquare(branch, dim));
    if (a.residual != nullptr) {
      const T* residual = a.residual + row * dim;
      T* sum = a.sum + row * dim;
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) sum[i] = a.residual_scale * residual[i] + branch[i];
      x = sum;
    }
    if (a.gain != nullptr) {
      T* output = a.output + row * dim;
      const T inv_rms = 1 / SquareRoot(MeanSquare(x, dim) + a.eps);
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
    const T* gain = a.gain;
    const T dot = Sum<T>(dim, [=](int64_t i) { return grad[i] * gain[i] * x[i]; });
    const T inv_rms = a.inv_rms[row];
    const T factor = inv_rms * a.output_scale;
    const T pull = factor * inv_rms * inv_rms * dot / static_cast<T>(dim);
    if (a.add != nullptr) {
      const T* add = a.add + row * dim;
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) {
        const T scaled = factor * grad[i];
        a.grad_gain[i] += scaled * x[i];
        grad_x[i] = scaled * gain[i] - pull * x[i] + a.add_scale * add[i];
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) {
        const T scaled = factor * grad[i];
        a.grad_gain[i] += scaled * x[i];
        grad_x[i] = scaled * gain[i] - pull * x[i];
      }
    }
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
                                    .attention = Attention<T>,
                                    .attention_grad = AttentionGrad<T>,
                                    .swiglu = SwiGlu<T>,
                                    .swiglu_grad = SwiGluGrad<T>,
                                    .cross_entropy = CrossEntropy<T>};

}  // namespace
}  // namespace normlab::trainer
