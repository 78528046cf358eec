#pragma once

#include <cstdint>

// The loops of the model over plain memory: no torch, no threads. Each works on a range of rows, so callers split the
// rows among threads as they like. T is float in training and double in tests.
namespace normlab::trainer {

/// What NormRows leaves of a row for the layer statistics, over its columns.
struct RowStats {
  double variance = 0;  // Population.
  double mean_square = 0;
  double max_abs = 0;
};

/// In the order of NormKind (common/norm_scheme.h).
enum class NormFormula { kRms, kLayer, kDyt };

/// A norm as the kernels see it. z below is the normed x before gain and bias:
///   kRms:   z = x / sqrt(mean(x^2) + eps)                  arXiv:1910.07467
///   kLayer: z = (x - mean(x)) / sqrt(var(x) + eps)         arXiv:1607.06450
///   kDyt:   z = tanh(alpha x)                              arXiv:2503.10622
/// and the output is output_scale * (gain z + bias). Statistics have the precision of T.
template <typename T>
struct NormWeights {
  NormFormula formula = NormFormula::kRms;
  const T* gain = nullptr;  // [dim]
  const T* bias = nullptr;  // [dim], or null.
  T alpha = 0;              // kDyt
  T output_scale = 1;
  T eps = 0;
};

/// x = sum_scale * (residual_scale * residual + branch_scale * branch_gain * branch) and the norm of x.
template <typename T>
struct NormRows {
  int64_t rows;
  int64_t dim;
  const T* residual;  // Null: x is `branch`, and the numbers of the sum play no part.
  T residual_scale;
  const T* branch;
  T branch_scale = 1;
  const T* branch_gain = nullptr;  // [dim]. Null: ones.
  T sum_scale = 1;
  bool rounds_sum = false;     // To bfloat16.
  T* sum;                      // Receives x unless `residual` is null; may be `branch` itself.
  const NormWeights<T>* norm;  // Null: `output` and `inv_rms` are not written.
  T* output;
  T* inv_rms;              // [rows]: 1 over the root above. Not written by kDyt.
  RowStats* branch_stats;  // [rows]: of the branch's part of x. Null: not wanted.
  RowStats* stream_stats;  // [rows]: of `output`, or of x where there is no norm. Null: not wanted.
};

/// Gradient of NormRows' norm by x, gain, bias and alpha.
template <typename T>
struct NormGradRows {
  int64_t rows;
  int64_t dim;
  const NormWeights<T>* norm;
  const T* grad_output;
  const T* x;
  const T* inv_rms;
  const T* add;  // Null, or a gradient that reaches x past the norm, added add_scale times to grad_x.
  T add_scale;
  T* grad_x;           // May be `grad_output` itself.
  T* grad_gain;        // [dim], added to.
  T* grad_bias;        // [dim], added to; null without a bias.
  double* grad_alpha;  // Added to; null but for kDyt.
};

/// sums[i] += a[row][i] * b[row][i], over rows.
template <typename T>
struct ColumnProducts {
  int64_t rows;
  int64_t dim;
  const T* a;
  const T* b;
  T* sums;  // [dim]
};

/// Causal softmax attention of some heads, softmax(q k' / sqrt(head_dim)) v, with the rotary position embedding of
/// query and key (half-split over the whole head, arXiv:2104.09864). Head h of sequence b has number b * heads + h.
template <typename T>
struct AttentionHeads {
  int64_t first;  // Heads [first, first + count).
  int64_t count;
  int64_t seq;
  int64_t heads;  // Per sequence.
  int64_t head_dim;
  const T* cosine;  // [seq, head_dim / 2]
  const T* sine;
  const T* qkv;  // [batch, seq, 3, heads, head_dim], not rotated
  T* context;    // [batch, seq, heads, head_dim]; written forward, read backward
  T* logsumexp;  // [batch, heads, seq], of the scaled scores; written forward, read backward
  T* scratch;    // AttentionScratchSize elements, this call's alone.
};

template <typename T>
struct AttentionGradHeads {
  AttentionHeads<T> forward;
  const T* grad_context;  // Like context.
  T* grad_qkv;            // Like qkv.
};

/// The attention kernels work in tiles, 4 rows by 16 columns, and queries of a backward pass in blocks.
inline constexpr int64_t kTileColumns = 16;
inline constexpr int64_t kQueryBlock = 32;
constexpr int64_t PaddedToTile(int64_t n) { return (n + kTileColumns - 1) / kTileColumns * kTileColumns; }

/// How far rows of `columns` elements lie apart in scratch memory: an odd number of cache lines, as an even one puts
/// the rows of a tile into few sets of the cache.
constexpr int64_t ScratchStride(int64_t columns) {
  return ((columns + kTileColumns - 1) / kTileColumns | 1) * kTileColumns;
}

/// Elements of scratch memory for one call, forward or backward.
int64_t AttentionScratchSize(int64_t seq, int64_t head_dim);

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
  void (*column_products)(const ColumnProducts<T>&);
  void (*attention)(const AttentionHeads<T>&);
  void (*attention_grad)(const AttentionGradHeads<T>&);
  void (*swiglu)(const SwiGluRows<T>&);
  void (*swiglu_grad)(const SwiGluGradRows<T>&);
  void (*cross_entropy)(const CrossEntropyRows<T>&);
};

/// The fastest kernels that this machine can run, chosen once.
template <typename T>
const CpuKernels<T>& Kernels();

}  // namespace normlab::trainer
