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
T MaxAbs(const T* x, int64_t dim) {
  T largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < dim; ++i) {
    const T size = x[i] < 0 ? -x[i] : x[i];
    largest = size > largest ? size : largest;
  }
  return largest;
}

/// Of scale * x.
template <typename T>
RowStats StatsOfRow(const T* x, int64_t dim, T scale) {
  const T mean = Sum<T>(dim, [=](int64_t i) { return x[i]; }) / static_cast<T>(dim);
  // Around the mean: mean(x^2) - mean^2 loses all digits in a stream whose mean dominates.
  const T deviation_sum = Sum<T>(dim, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  const double square = static_cast<double>(scale) * static_cast<double>(scale);
  const double variance = static_cast<double>(deviation_sum) / static_cast<double>(dim);
  const double mean_square = variance + static_cast<double>(mean) * static_cast<double>(mean);
  const T size = scale < 0 ? -scale : scale;
  return {square * variance, square * mean_square, static_cast<double>(size * MaxAbs(x, dim))};
}

/// The sum of one row; where it is the branch that changes, `branch` may be `sum`. `branch_stats` may be null.
template <typename T>
void SumRow(const NormRows<T>& a, const T* residual, const T* branch, T* sum, RowStats* branch_stats) {
  const int64_t dim = a.dim;
  const T* added = branch;
  if (a.branch_gain != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i) sum[i] = a.branch_scale * a.branch_gain[i] * branch[i];
    added = sum;
  } else if (a.branch_scale != 1) {
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i) sum[i] = a.branch_scale * branch[i];
    added = sum;
  }
  if (branch_stats != nullptr) *branch_stats = StatsOfRow(added, dim, a.sum_scale);
#pragma omp simd
  for (int64_t i = 0; i < dim; ++i) sum[i] = a.residual_scale * residual[i] + added[i];
  if (a.sum_scale != 1) {
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i) sum[i] *= a.sum_scale;
  }
  if (a.rounds_sum) {
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i) sum[i] = static_cast<T>(RoundToBfloat16(static_cast<float>(sum[i])));
  }
}

template <typename T>
T Mean(const T* x, int64_t dim) {
  return Sum<T>(dim, [=](int64_t i) { return x[i]; }) / static_cast<T>(dim);
}

template <typename T>
void AddBias(const NormWeights<T>& norm, int64_t dim, T* output) {
  if (norm.bias == nullptr) return;
#pragma omp simd
  for (int64_t i = 0; i < dim; ++i) output[i] += norm.output_scale * norm.bias[i];
}

template <typename T>
void RmsRow(const NormWeights<T>& norm, int64_t dim, const T* x, T* output, T* inv_rms) {
  *inv_rms = 1 / SquareRoot(MeanSquare(x, dim) + norm.eps);
  const T factor = *inv_rms * norm.output_scale;
#pragma omp simd
  for (int64_t i = 0; i < dim; ++i) output[i] = x[i] * factor * norm.gain[i];
}

template <typename T>
void LayerRow(const NormWeights<T>& norm, int64_t dim, const T* x, T* output, T* inv_rms) {
  const T mean = Mean(x, dim);
  const T variance = Sum<T>(dim, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / static_cast<T>(dim);
  *inv_rms = 1 / SquareRoot(variance + norm.eps);
  const T factor = *inv_rms * norm.output_scale;
#pragma omp simd
  for (int64_t i = 0; i < dim; ++i) output[i] = (x[i] - mean) * factor * norm.gain[i];
}

template <typename T>
void DytRow(const NormWeights<T>& norm, int64_t dim, const T* x, T* output) {
#pragma omp simd
  for (int64_t i = 0; i < dim; ++i) output[i] = norm.output_scale * norm.gain[i] * Tanh(norm.alpha * x[i]);
}

template <typename T>
void Norm(const NormRows<T>& a) {
  const int64_t dim = a.dim;
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* x = a.branch + row * dim;
    if (a.residual != nullptr) {
      SumRow(a, a.residual + row * dim, x, a.sum + row * dim,
             a.branch_stats != nullptr ? a.branch_stats + row : nullptr);
      x = a.sum + row * dim;
    }
    if (a.norm != nullptr) {
      T* output = a.output + row * dim;
      switch (a.norm->formula) {
        case NormFormula::kRms:
          RmsRow(*a.norm, dim, x, output, a.inv_rms + row);
          break;
        case NormFormula::kLayer:
          LayerRow(*a.norm, dim, x, output, a.inv_rms + row);
          break;
        case NormFormula::kDyt:
          DytRow(*a.norm, dim, x, output);
          break;
      }
      AddBias(*a.norm, dim, output);
      x = output;
    }
    if (a.stream_stats != nullptr) a.stream_stats[row] = StatsOfRow(x, dim, T(1));
  }
}

// With r = inv_rms, s = output_scale and y = s r gain x:
//   dx = r s gain dy - r^3 x mean(s gain dy x),   dgain = s r x dy summed over rows.
template <typename T>
void RmsRowGrad(const NormGradRows<T>& a, const T* grad, const T* x, T inv_rms, const T* add, T* grad_x) {
  const int64_t dim = a.dim;
  const T* gain = a.norm->gain;
  const T dot = Sum<T>(dim, [=](int64_t i) { return grad[i] * gain[i] * x[i]; });
  const T factor = inv_rms * a.norm->output_scale;
  const T pull = factor * inv_rms * inv_rms * dot / static_cast<T>(dim);
  if (add != nullptr) {
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

// With c = x - mean(x): dx = r s (gain dy - mean(gain dy)) - r^3 c mean(s gain dy c).
template <typename T>
void LayerRowGrad(const NormGradRows<T>& a, const T* grad, const T* x, T inv_rms, const T* add, T* grad_x) {
  const int64_t dim = a.dim;
  const T* gain = a.norm->gain;
  const T mean = Mean(x, dim);
  const T grad_mean = Sum<T>(dim, [=](int64_t i) { return grad[i] * gain[i]; }) / static_cast<T>(dim);
  const T dot = Sum<T>(dim, [=](int64_t i) { return grad[i] * gain[i] * (x[i] - mean); });
  const T factor = inv_rms * a.norm->output_scale;
  const T pull = factor * inv_rms * inv_rms * dot / static_cast<T>(dim);
  for (int64_t i = 0; i < dim; ++i) {
    const T scaled = factor * grad[i];
    const T centered = x[i] - mean;
    a.grad_gain[i] += scaled * centered;
    grad_x[i] = scaled * gain[i] - factor * grad_mean - pull * centered + (add != nullptr ? a.add_scale * add[i] : 0);
  }
}

// With t = tanh(alpha x): dx = s gain dy (1 - t^2) alpha,  dalpha = sum(s gain dy (1 - t^2) x),  dgain = s t dy.
template <typename T>
void DytRowGrad(const NormGradRows<T>& a, const T* grad, const T* x, const T* add, T* grad_x) {
  const int64_t dim = a.dim;
  const T* gain = a.norm->gain;
  const T alpha = a.norm->alpha, scale = a.norm->output_scale;
  T alpha_sum = 0;
#pragma omp simd reduction(+ : alpha_sum)
  for (int64_t i = 0; i < dim; ++i) {
    const T t = Tanh(alpha * x[i]);
    const T scaled = scale * grad[i];
    const T inner = scaled * gain[i] * (1 - t * t);
    a.grad_gain[i] += scaled * t;
    alpha_sum += inner * x[i];
    grad_x[i] = inner * alpha;
  }
  *a.grad_alpha += static_cast<double>(alpha_sum);
  if (add == nullptr) return;
#pragma omp simd
  for (int64_t i = 0; i < dim; ++i) grad_x[i] += a.add_scale * add[i];
}

template <typename T>
void NormGrad(const NormGradRows<T>& a) {
  const int64_t dim = a.dim;
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* grad = a.grad_output + row * dim;
    const T* x = a.x + row * dim;
    const T* add = a.add != nullptr ? a.add + row * dim : nullptr;
    T* grad_x = a.grad_x + row * dim;
    if (a.grad_bias != nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) a.grad_bias[i] += a.norm->output_scale * grad[i];
    }
    switch (a.norm->formula) {
      case NormFormula::kRms:
        RmsRowGrad(a, grad, x, a.inv_rms[row], add, grad_x);
        break;
      case NormFormula::kLayer:
        LayerRowGrad(a, grad, x, a.inv_rms[row], add, grad_x);
        break;
      case NormFormula::kDyt:
        DytRowGrad(a, grad, x, add, grad_x);
        break;
    }
  }
}

template <typename T>
void SumColumnProducts(const ColumnProducts<T>& p) {
  for (int64_t row = 0; row < p.rows; ++row) {
    const T* a = p.a + row * p.dim;
    const T* b = p.b + row * p.dim;
#pragma omp simd
    for (int64_t i = 0; i < p.dim; ++i) p.sums[i] += a[i] * b[i];
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
                                    .column_products = SumColumnProducts<T>,
                                    .attention = Attention<T>,
                                    .attention_grad = AttentionGrad<T>,
                                    .swiglu = SwiGlu<T>,
                                    .swiglu_grad = SwiGluGrad<T>,
                                    .cross_entropy = CrossEntropy<T>};

}  // namespace
}  // namespace normlab::trainer
