#include "worker/trainer/model/norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "worker/trainer/model/kernels/cpu_kernels.h"
#include "worker/trainer/model/layer_norm.h"
#include "worker/trainer/model/rows.h"

namespace normlab::trainer {
namespace {

struct ChunkSums {
  double branch_square = 0;
  StreamSums stream;
};

void ReportMeans(const std::vector<ChunkSums>& sums, double tokens, const SublayerStats& stats) {
  ChunkSums total;
  for (const ChunkSums& chunk : sums) {
    total.branch_square += chunk.branch_square;
    total.stream.variance += chunk.stream.variance;
    total.stream.mean_square += chunk.stream.mean_square;
  }
  if (stats.branch_mean_square != nullptr) *stats.branch_mean_square = total.branch_square / tokens;
  if (stats.output_variance != nullptr) {
    *stats.output_variance = total.stream.variance / tokens;
    *stats.output_mean_square = total.stream.mean_square / tokens;
  }
}

/// Runs the norm kernel over all rows; every part is optional as in NormRows.
NormResult RunNorm(const Norm* norm, double residual_scale, const at::Tensor& residual, const at::Tensor& branch,
                   const SublayerStats& stats) {
  const int64_t tokens = branch.size(0);
  const int64_t hidden = branch.size(1);
  NormResult result;
  if (norm != nullptr) {
    result.output = at::empty_like(branch);
    result.inv_rms = at::empty({tokens}, branch.options());
  }
  std::vector<ChunkSums> sums(NumChunks(tokens));
  WithElementType(branch, [&]<typename T>(T) {
    const auto kernel = Kernels<T>().norm;
    const T* residual_data = residual.defined() ? residual.const_data_ptr<T>() : nullptr;
    T* branch_data = residual.defined() ? branch.mutable_data_ptr<T>() : nullptr;
    NormRows<T> all = {.dim = hidden,
                       .residual_scale = static_cast<T>(residual_scale),
                       .gain = norm != nullptr ? norm->gain.const_data_ptr<T>() : nullptr,
                       .output_scale = static_cast<T>(norm != nullptr ? norm->output_scale : 1),
                       .eps = static_cast<T>(norm != nullptr ? norm->eps : 0)};
    const T* input = branch.const_data_ptr<T>();
    T* output = norm != nullptr ? result.output.mutable_data_ptr<T>() : nullptr;
    T* inv_rms = norm != nullptr ? result.inv_rms.mutable_data_ptr<T>() : nullptr;
    ForEachChunk(tokens, [&](int64_t chunk, int64_t row, int64_t rows) {
      NormRows<T> part = all;
      part.rows = rows;
      part.branch = input + row * hidden;
      if (residual_data != nullptr) {
        part.residual = residual_data + row * hidden;
        part.sum = branch_data + row * hidden;
      }
      if (output != nullptr) {
        part.output = output + row * hidden;
        part.inv_rms = inv_rms + row;
      }
      if (stats.branch_mean_square != nullptr) part.branch_square_sum = &sums[chunk].branch_square;
      if (stats.output_variance != nullptr) part.stream_sums = &sums[chunk].stream;
      kernel(part);
    });
  });
  ReportMeans(sums, static_cast<double>(tokens), stats);
  return result;
}

}  // namespace

NormResult ApplyNorm(const Norm& norm, const at::Tensor& x) {
  return norm.bias.defined() ? ApplyLayerNorm(norm, x) : RunNorm(&norm, 1, {}, x, {});
}

NormResult AddAndNorm(const Norm* norm, double residual_scale, const at::Tensor& residual, const at::Tensor& branch,
                      const SublayerStats& stats) {
  if (norm == nullptr || !norm->bias.defined()) return RunNorm(norm, residual_scale, residual, branch, stats);
  RunNorm(nullptr, residual_scale, residual, branch, {.branch_mean_square = stats.branch_mean_square});
  NormResult result = ApplyLayerNorm(*norm, branch);
  if (stats.output_variance != nullptr) {
    *stats.output_variance = result.output.var(-1, /*unbiased=*/false).mean().item<double>();
    *stats.output_mean_square = result.output.square().mean().item<double>();
  }
  return result;
}

NormGradient NormBackward(const Norm& norm, const at::Tensor& grad_output, const at::Tensor& x,
                          const at::Tensor& inv_rms, const at::Tensor& add, double add_scale) {
  if (norm.bias.defined()) return LayerNormBackward(norm, grad_output, x, inv_rms, add, add_scale);
  const int64_t tokens = x.size(0);
  const int64_t hidden = x.size(1);
  const at::Tensor grad_x = at::empty_like(x);
  const at::Tensor chunk_gains = at::zeros({NumChunks(tokens), hidden}, x.options());
  WithElementType(x, [&]<typename T>(T) {
    const auto kernel = Kernels<T>().norm_grad;
    const NormGradRows<T> all = {.dim = hidden,
                                 .grad_output = grad_output.const_data_ptr<T>(),
                                 .x = x.const_data_ptr<T>(),
                                 .inv_rms = inv_rms.const_data_ptr<T>(),
                                 .gain = norm.gain.const_data_ptr<T>(),
                                 .output_scale = static_cast<T>(norm.output_scale),
                                 .add = add.defined() ? add.const_data_ptr<T>() : nullptr,
                                 .add_scale = static_cast<T>(add_scale),
                                 .grad_x = grad_x.mutable_data_ptr<T>(),
                                 .grad_gain = chunk_gains.mutable_data_ptr<T>()};
    ForEachChunk(tokens, [&](int64_t chunk, int64_t row, int64_t rows) {
      NormGradRows<T> part = all;
      part.rows = rows;
      part.grad_output += row * hidden;
      part.x += row * hidden;
      part.inv_rms += row;
      if (part.add != nullptr) part.add += row * hidden;
      part.grad_x += row * hidden;
      part.grad_gain += chunk * hidden;
      kernel(part);
    });
  });
  return {.x = grad_x, .parameters = {chunk_gains.sum(0)}};
}

}  // namespace normlab::trainer
