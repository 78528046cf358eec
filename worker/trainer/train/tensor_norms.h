#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace normlab::trainer {

/// Calls function(tensor's index, its first element, count) for pieces of contiguous float32 tensors, from several
/// threads. The pieces are the same at any number of threads.
void ForEachPiece(const std::vector<at::Tensor>& tensors,
                  const std::function<void(size_t piece, size_t tensor, float* values, int64_t count)>& function);

/// Pieces that ForEachPiece makes.
size_t NumPieces(const std::vector<at::Tensor>& tensors);

/// Euclidean norm of each contiguous float32 tensor, summed in float64; the same bits at any number of threads. Of
/// tensors on a GPU or in bfloat16 by LibTorch, summed in float32.
std::vector<double> NormsOf(const std::vector<at::Tensor>& tensors);

/// Root of the sum of squares.
double RootOfSquares(const std::vector<double>& values);

}  // namespace normlab::trainer
