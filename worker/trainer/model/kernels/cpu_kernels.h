#pragma once

#include <cstdint>

// The loops of the model over plain memory: no torch, no threads. Each works on a range of rows, so callers split the
// rows among threads as they like. T is float in training and double in tests.
namespace normlab::trainer {

/// Sums over rows that NormRows leaves for the layer statistics.
struct StreamSums {
  double variance = 0;     // Over each row's columns (population), summed over rows.
  double mean_square = 0;  // Likewise.
};

/// x = residual_scale * residual + branch, output = x / sqrt(mean(x^2) + eps) * gain * output_scale
/// (RMSNorm, arXiv:1910.07467). Statistics have the precision of T.
template <typename T>
struct NormRows {
  int64_t rows;
  int64_t dim;
  const T* residual;  // Null: x is `branch`.
  T residual_scale;
  const T* branch;
  T* sum;         // Receives x unless `residual` is null; may be `branch` itself.
  const T* gain;  // [dim]. Null: no norm, and `output` and `inv_rms` are not written.
  T output_scale;
  T eps;
  T* output;
  T* inv_rms;                 // [rows]: 1 / sqrt(mean(x^2) + eps)
  double* branch_square_sum;  // Null, or gets the sum over rows of mean(branch^2) added.
  StreamSums* stream_sums;    // Null, or gets those of `output` added (of x where there is no norm).
};

/// Gradient of NormRows' norm by x and by gain.
template <typename T>
struct NormGradRows {
  int64_t rows;
  int64_t dim;
  const T* grad_output;
  const T* x;
  const T* inv_rms;
  const T* gain;
  T output_scale;
  const T* add;  // Null, or a gradient that reaches x past the norm, added to grad_x.
  T* grad_x;     // May be `grad_output` itself.
  T* grad_gain;  // [dim], added to.
};

/// Rotary position embedding of query and key, half-split over the whole head (arXiv:2104.09864). Row r is position r %
/// seq.
template <typename T>
struct RotateRows {
  int64_t first_row;  // Rows [first_row, first_row + rows) of the whole tensor.
  int64_t rows;
  int64_t seq;
  int64_t heads;
  int64_t head_dim;
  const T* cosine;  // [seq, head_dim / 2]
  const T* sine;
  T* qkv;  // Start of the whole tensor [rows, 3, heads, head_dim]; value is left alone. In place.
};

/// The gradient of RotateRows, gathered from three tensors into one.
template <typename T>
struct UnrotateRows {
  RotateRows<T> to;     // Written, value included.
  const T* grad_query;  // Starts of the whole tensors [rows, heads, head_dim].
  const T* grad_key;
  const T* grad_value;
};

/// output = silu(gate) * up (arXiv:2002.05202).
template <typename T>
struct SwiGluRows {
  int64_t rows;
  int64_t dim;
  const T* gate_up;  // [rows, 2, dim]
  T* output;         // [rows, dim]
};

template <typename T>
struct SwiGluGradRows {
  int64_t rows;
  int64_t dim;
  T* gate_up;  // [rows, 2, dim]; becomes its own gradient.
  T* output;   // [rows, dim]: the gradient of the output; becomes the output, which the next gradient needs.
};

/// Cross entropy of logits against one target per row.
template <typename T>
struct CrossEntropyRows {
  int64_t rows;
  int64_t vocab;
  T* logits;  // With wants_grad: becomes grad_scale * d(loss of the row) / d(logits).
  const int64_t* targets;
  bool wants_grad;
  T grad_scale;
  double* loss_sum;  // Added to, in nats.
};

template <typename T>
struct CpuKernels {
  void (*norm)(const NormRows<T>&);
  void (*norm_grad)(const NormGradRows<T>&);
  void (*rotate)(const RotateRows<T>&);
  void (*unrotate)(const UnrotateRows<T>&);
  void (*swiglu)(const SwiGluRows<T>&);
  void (*swiglu_grad)(const SwiGluGradRows<T>&);
  void (*cross_entropy)(const CrossEntropyRows<T>&);
};

/// The fastest kernels that this machine can run, chosen once.
template <typename T>
const CpuKernels<T>& Kernels();

}  // namespace normlab::trainer
