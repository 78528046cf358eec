// Part of cpu_kernels_impl.h: compiled once per instruction set, so nothing from the standard library with a body.
//
// One head at a time, whole rows of scores: a row of a training sequence fits the first cache, so there is no need for
// an online softmax, and what causality makes useless is never computed. Query, key and value are first copied to
// padded scratch memory, rotated on the way.
#pragma once

#include <cstdint>

#include "worker/trainer/model/kernels/cpu_kernels.h"
#include "worker/trainer/model/kernels/math_impl.h"

namespace normlab::trainer {
namespace {

constexpr int64_t kTileRows = 4;

template <typename T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(32), aligned(sizeof(T)), may_alias));
};

/// C = A B, or C += A B, for one tile of C: 4 x 16. Element (m, k) of A is a[m * stride_m + k * stride_k].
template <bool kAdd, typename T>
inline void MultiplyTile(int64_t depth, const T* a, int64_t stride_m, int64_t stride_k, const T* b, int64_t stride_b,
                         T* c, int64_t stride_c) {
  using Vector = typename VectorOf<T>::Type;
  constexpr int64_t kLanes = sizeof(Vector) / sizeof(T);
  // Two vectors a time: eight sums hide the latency of the multiply-add and leave registers for the operands.
  for (int64_t n = 0; n < kTileColumns; n += 2 * kLanes) {
    Vector sum[kTileRows][2] = {};
    if constexpr (kAdd) {
      for (int64_t m = 0; m < kTileRows; ++m) {
        sum[m][0] = *reinterpret_cast<const Vector*>(c + m * stride_c + n);
        sum[m][1] = *reinterpret_cast<const Vector*>(c + m * stride_c + n + kLanes);
      }
    }
    for (int64_t k = 0; k < depth; ++k) {
      const Vector b0 = *reinterpret_cast<const Vector*>(b + k * stride_b + n);
      const Vector b1 = *reinterpret_cast<const Vector*>(b + k * stride_b + n + kLanes);
      for (int64_t m = 0; m < kTileRows; ++m) {
        const T x = a[m * stride_m + k * stride_k];
        sum[m][0] += x * b0;
        sum[m][1] += x * b1;
      }
    }
    for (int64_t m = 0; m < kTileRows; ++m) {
      *reinterpret_cast<Vector*>(c + m * stride_c + n) = sum[m][0];
      *reinterpret_cast<Vector*>(c + m * stride_c + n + kLanes) = sum[m][1];
    }
  }
}

/// Four rows of C over `columns`, a multiple of the tile.
template <bool kAdd, typename T>
inline void MultiplyRows(int64_t columns, int64_t depth, const T* a, int64_t stride_m, int64_t stride_k, const T* b,
                         int64_t stride_b, T* c, int64_t stride_c) {
  for (int64_t n = 0; n < columns; n += kTileColumns) {
    MultiplyTile<kAdd>(depth, a, stride_m, stride_k, b + n, stride_b, c + n, stride_c);
  }
}

/// One head in tensors [batch, seq, parts, heads, head_dim]: where it starts and how far its rows are apart.
struct HeadPlace {
  int64_t start;
  int64_t stride;
};

inline HeadPlace PlaceOf(int64_t head, int64_t seq, int64_t heads, int64_t head_dim, int64_t part, int64_t parts) {
  const int64_t stride = parts * heads * head_dim;
  return {(head / heads) * seq * stride + (part * heads + head % heads) * head_dim, stride};
}

/// Rotates each row by its position (backwards with direction -1) and multiplies it.
template <typename T>
void RotateRows(const AttentionHeads<T>& a, T direction, T factor, const T* from, int64_t from_stride, T* to,
                int64_t to_stride) {
  const int64_t half = a.head_dim / 2;
  for (int64_t row = 0; row < a.seq; ++row) {
    const T* low = from + row * from_stride;
    const T* high = low + half;
    const T* cosine = a.cosine + row * half;
    const T* sine = a.sine + row * half;
    T* out_low = to + row * to_stride;
    T* out_high = out_low + half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const T c = cosine[i] * factor, s = sine[i] * direction * factor;
      const T x = low[i], y = high[i];
      out_low[i] = x * c - y * s;
      out_high[i] = y * c + x * s;
    }
  }
}

template <typename T>
void CopyRows(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  for (int64_t row = 0; row < rows; ++row) {
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) to[row * to_stride + i] = from[row * from_stride + i];
  }
}

/// [rows, columns] to [columns, rows].
template <typename T>
void TransposeRows(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < columns; ++i) to[i * to_stride + row] = from[row * from_stride + i];
  }
}

/// Hands out pieces of a call's scratch memory.
template <typename T>
struct Scratch {
  T* next;

  T* Take(int64_t count) {
    T* piece = next;
    next += count;
    return piece;
  }
  T* TakeZeroed(int64_t count) {
    T* piece = Take(count);
    __builtin_memset(piece, 0, static_cast<uint64_t>(count) * sizeof(T));
    return piece;
  }
};

/// Before exp; no infinity, whose difference to another is NaN.
constexpr float kHiddenScore = -1e30f;

/// Overwrites what belongs to keys behind the query, up to `limit`.
template <typename T>
inline void HideFuture(T* row, int64_t query, int64_t limit, T value) {
  for (int64_t key = query + 1; key < limit; ++key) row[key] = value;
}

template <typename T>
void AttendHead(const AttentionHeads<T>& a, int64_t head) {
  const int64_t seq = a.seq, dim = a.head_dim, wide = PaddedToTile(dim), rows = PaddedToTile(seq);
  const int64_t by_dim = ScratchStride(dim), by_seq = ScratchStride(seq);
  Scratch<T> scratch = {a.scratch};
  T* query = scratch.TakeZeroed(rows * by_dim);       // [seq, dim], rotated, times 1 / sqrt(head_dim)
  T* key = scratch.TakeZeroed(rows * by_dim);         // [seq, dim], rotated
  T* key_columns = scratch.TakeZeroed(dim * by_seq);  // [dim, seq]
  T* value = scratch.TakeZeroed(rows * by_dim);       // [seq, dim]
  T* scores = scratch.Take(kTileRows * by_seq);
  T* output = scratch.Take(kTileRows * by_dim);
  const HeadPlace q = PlaceOf(head, seq, a.heads, dim, 0, 3), k = PlaceOf(head, seq, a.heads, dim, 1, 3),
                  v = PlaceOf(head, seq, a.heads, dim, 2, 3), out = PlaceOf(head, seq, a.heads, dim, 0, 1);
  RotateRows<T>(a, 1, 1 / SquareRoot(static_cast<T>(dim)), a.qkv + q.start, q.stride, query, by_dim);
  RotateRows<T>(a, 1, 1, a.qkv + k.start, k.stride, key, by_dim);
  TransposeRows(seq, dim, key, by_dim, key_columns, by_seq);
  CopyRows(seq, dim, a.qkv + v.start, v.stride, value, by_dim);

  for (int64_t first = 0; first < seq; first += kTileRows) {
    const int64_t limit = PaddedToTile(first + kTileRows);
    MultiplyRows<false>(limit, dim, query + first * by_dim, by_dim, 1, key_columns, by_seq, scores, by_seq);
    T inverse_sum[kTileRows];
    for (int64_t m = 0; m < kTileRows; ++m) {
      T* row = scores + m * by_seq;
      HideFuture<T>(row, first + m, limit, kHiddenScore);
      T largest = row[0];
#pragma omp simd reduction(max : largest)
      for (int64_t i = 0; i < limit; ++i) largest = row[i] > largest ? row[i] : largest;
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < limit; ++i) {
        row[i] = Exp(row[i] - largest);
        sum += row[i];
      }
      HideFuture<T>(row, first + m, limit, 0);
      inverse_sum[m] = 1 / sum;
      if (first + m < seq) {
        a.logsumexp[head * seq + first + m] = largest + static_cast<T>(Log(static_cast<double>(sum)));
      }
    }
    MultiplyRows<false>(wide, first + kTileRows, scores, by_seq, 1, value, by_dim, output, by_dim);
    for (int64_t m = 0; m < kTileRows && first + m < seq; ++m) {
      T* to = a.context + out.start + (first + m) * out.stride;
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) to[i] = output[m * by_dim + i] * inverse_sum[m];
    }
  }
}

template <typename T>
void Attention(const AttentionHeads<T>& a) {
  for (int64_t head = a.first; head < a.first + a.count; ++head) AttendHead(a, head);
}

// With P the probabilities, O the context and D = rowsum(dO * O):
//   dV = P' dO,   dS = P * (dO V' - D),   dQ = dS K / sqrt(head_dim),   dK = dS' Q / sqrt(head_dim).
template <typename T>
void AttendHeadGrad(const AttentionGradHeads<T>& grad, int64_t head) {
  const AttentionHeads<T>& a = grad.forward;
  const int64_t seq = a.seq, dim = a.head_dim, wide = PaddedToTile(dim), rows = PaddedToTile(seq);
  const int64_t by_dim = ScratchStride(dim), by_seq = ScratchStride(seq);
  Scratch<T> scratch = {a.scratch};
  T* query = scratch.TakeZeroed(rows * by_dim);  // [seq, dim], rotated, times 1 / sqrt(head_dim)
  T* key = scratch.TakeZeroed(rows * by_dim);    // [seq, dim], rotated
  T* key_columns = scratch.TakeZeroed(dim * by_seq);
  T* value_columns = scratch.TakeZeroed(dim * by_seq);
  T* grad_output = scratch.TakeZeroed(rows * by_dim);
  T* grad_query = scratch.Take(rows * by_dim);
  T* grad_key = scratch.TakeZeroed(rows * by_dim);
  T* grad_value = scratch.TakeZeroed(rows * by_dim);
  T* probabilities = scratch.Take(kQueryBlock * by_seq);
  T* grad_scores = scratch.Take(kQueryBlock * by_seq);
  const T scale = 1 / SquareRoot(static_cast<T>(dim));
  const HeadPlace q = PlaceOf(head, seq, a.heads, dim, 0, 3), k = PlaceOf(head, seq, a.heads, dim, 1, 3),
                  v = PlaceOf(head, seq, a.heads, dim, 2, 3), out = PlaceOf(head, seq, a.heads, dim, 0, 1);
  RotateRows<T>(a, 1, scale, a.qkv + q.start, q.stride, query, by_dim);
  RotateRows<T>(a, 1, 1, a.qkv + k.start, k.stride, key, by_dim);
  TransposeRows(seq, dim, key, by_dim, key_columns, by_seq);
  TransposeRows(seq, dim, a.qkv + v.start, v.stride, value_columns, by_seq);
  CopyRows(seq, dim, grad.grad_context + out.start, out.stride, grad_output, by_dim);

  for (int64_t block = 0; block < seq; block += kQueryBlock) {
    const int64_t block_end = block + kQueryBlock < seq ? block + kQueryBlock : seq;
    for (int64_t first = block; first < block_end; first += kTileRows) {
      const int64_t limit = PaddedToTile(first + kTileRows);
      T* p = probabilities + (first - block) * by_seq;
      T* ds = grad_scores + (first - block) * by_seq;
      MultiplyRows<false>(limit, dim, query + first * by_dim, by_dim, 1, key_columns, by_seq, p, by_seq);
      MultiplyRows<false>(limit, dim, grad_output + first * by_dim, by_dim, 1, value_columns, by_seq, ds, by_seq);
      for (int64_t m = 0; m < kTileRows; ++m, p += by_seq, ds += by_seq) {
        const int64_t row = first + m;
        // Rows past the end have no gradient: whatever their probabilities are, they add nothing.
        const T logsumexp = row < seq ? a.logsumexp[head * seq + row] : 0;
        const T* context = a.context + out.start + (row < seq ? row : 0) * out.stride;
        T dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < dim; ++i) dot += grad_output[row * by_dim + i] * context[i];
        HideFuture<T>(p, row, limit, kHiddenScore);
#pragma omp simd
        for (int64_t i = 0; i < limit; ++i) {
          p[i] = Exp(p[i] - logsumexp);
          ds[i] = p[i] * (ds[i] - dot);
        }
        HideFuture<T>(p, row, limit, 0);
        HideFuture<T>(ds, row, limit, 0);
      }
      MultiplyRows<false>(wide, first + kTileRows, grad_scores + (first - block) * by_seq, by_seq, 1, key, by_dim,
                          grad_query + first * by_dim, by_dim);
    }
    const int64_t height = (block_end - block + kTileRows - 1) / kTileRows * kTileRows;
    for (int64_t column = 0; column < block + height; column += kTileRows) {
      const int64_t skip = column > block ? column - block : 0;  // Queries before the key.
      const int64_t at = skip * by_seq + column, row = (block + skip) * by_dim;
      MultiplyRows<true>(wide, height - skip, probabilities + at, 1, by_seq, grad_output + row, by_dim,
                         grad_value + column * by_dim, by_dim);
      MultiplyRows<true>(wide, height - skip, grad_scores + at, 1, by_seq, query + row, by_dim,
                         grad_key + column * by_dim, by_dim);
    }
  }
  RotateRows<T>(a, -1, scale, grad_query, by_dim, grad.grad_qkv + q.start, q.stride);
  RotateRows<T>(a, -1, 1, grad_key, by_dim, grad.grad_qkv + k.start, k.stride);
  CopyRows(seq, dim, grad_value, by_dim, grad.grad_qkv + v.start, v.stride);
}

template <typename T>
void AttentionGrad(const AttentionGradHeads<T>& grad) {
  const int64_t first = grad.forward.first;
  for (int64_t head = first; head < first + grad.forward.count; ++head) AttendHeadGrad(grad, head);
}

}  // namespace
}  // namespace normlab::trainer
