#include "worker/trainer/train/tensor_norms.h"

#include <ATen/Parallel.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>

#include "worker/trainer/model/portable.h"
#include "worker/trainer/train/flat_kernels.h"

namespace normlab::trainer {
namespace {

constexpr int64_t kPieceElements = 65536;

int64_t PiecesOf(const at::Tensor& tensor) { return (tensor.numel() + kPieceElements - 1) / kPieceElements; }

}  // namespace

size_t NumPieces(const std::vector<at::Tensor>& tensors) {
  int64_t count = 0;
  for (const at::Tensor& tensor : tensors) count += PiecesOf(tensor);
  return static_cast<size_t>(count);
}

void ForEachPiece(const std::vector<at::Tensor>& tensors,
                  const std::function<void(size_t, size_t, float*, int64_t)>& function) {
  struct Piece {
    size_t tensor;
    float* values;
    int64_t count;
  };
  std::vector<Piece> pieces;
  pieces.reserve(NumPieces(tensors));
  for (size_t i = 0; i < tensors.size(); ++i) {
    float* const values = tensors[i].data_ptr<float>();
    for (int64_t begin = 0; begin < tensors[i].numel(); begin += kPieceElements) {
      pieces.push_back({i, values + begin, std::min(kPieceElements, tensors[i].numel() - begin)});
    }
  }
  at::parallel_for(0, static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      function(i, pieces[i].tensor, pieces[i].values, pieces[i].count);
    }
  });
}

namespace {

/// In float32, and one copy to the host for all.
std::vector<double> NormsOnDevice(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> found = at::_foreach_norm(tensors, 2, at::kFloat);
  const at::Tensor norms = at::stack(found).to(at::kCPU, at::kDouble);
  return {norms.const_data_ptr<double>(), norms.const_data_ptr<double>() + norms.numel()};
}

}  // namespace

std::vector<double> NormsOf(const std::vector<at::Tensor>& tensors) {
  if (!tensors.empty() && !HasOwnKernels(tensors.front())) return NormsOnDevice(tensors);
  std::vector<double> sums(NumPieces(tensors));
  ForEachPiece(tensors, [&](size_t piece, size_t, const float* values, int64_t count) {
    sums[piece] = SumOfSquares(values, count);
  });
  std::vector<double> norms;
  norms.reserve(tensors.size());
  auto next = sums.begin();
  for (const at::Tensor& tensor : tensors) {
    double sum = 0;
    for (int64_t i = 0; i < PiecesOf(tensor); ++i) sum += *next++;
    norms.push_back(std::sqrt(sum));
  }
  return norms;
}

double RootOfSquares(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace normlab::trainer
