#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

// How the model's own kernels (kernels/cpu_kernels.h) meet tensors and threads.
namespace normlab::trainer {

/// Sums over rows are made per chunk and the chunks added in order: the same bits whatever the number of threads.
inline constexpr int64_t kChunkRows = 64;

inline int64_t NumChunks(int64_t rows) { return (rows + kChunkRows - 1) / kChunkRows; }

/// Calls function(chunk, first_row, num_rows) for every chunk, from several threads.
template <typename Function>
void ForEachChunk(int64_t rows, const Function& function) {
  at::parallel_for(0, NumChunks(rows), 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first_row = chunk * kChunkRows;
      function(chunk, first_row, std::min(kChunkRows, rows - first_row));
    }
  });
}

/// Calls function(T{}) with T the type of `like`'s elements, float or double.
template <typename Function>
auto WithElementType(const at::Tensor& like, const Function& function) {
  TORCH_CHECK(like.scalar_type() == at::kFloat || like.scalar_type() == at::kDouble,
              "the model computes in float32 or ", "float64, not in ", like.scalar_type());
  return like.scalar_type() == at::kFloat ? function(float{}) : function(double{});
}

}  // namespace normlab::trainer
