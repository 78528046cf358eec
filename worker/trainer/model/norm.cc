#include "worker/trainer/model/norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/trainer/model/norm_rows.h"
#include "worker/trainer/model/ops.h"
#include "worker/trainer/model/portable.h"
#include "worker/trainer/model/rows.h"

namespace normlab::trainer {
namespace {

/// In the order of rows, so that the sums have the same bits whatever the number of threads.
TokenStats Summarize(const std::vector<RowStats>& rows, const at::Tensor& counted) {
  const bool* counts = counted.defined() ? counted.const_data_ptr<bool>() : nullptr;
  TokenStats total;
  std::vector<double> variances;
  variances.reserve(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (counts != nullptr && !counts[i]) continue;
    variances.push_back(rows[i].variance);
    total.variance += rows[i].variance;
    total.mean_square += rows[i].mean_square;
    total.max_abs = std::max(total.max_abs, rows[i].max_abs);
  }
  if (variances.empty()) return total;
  const auto tokens = static_cast<double>(variances.size());
  total.variance /= tokens;
  total.mean_square /= tokens;
  if (std::isnan(total.variance)) {  // A run that diverges: what is no number has no order.
    total.variance_median = total.variance;
    return total;
  }
  const auto middle = variances.begin() + static_cast<int64_t>((variances.size() - 1) / 2);
  std::nth_element(variances.begin(), middle, variances.end());
  total.variance_median = *middle;
  return total;
}

/// Runs the norm kernel over all rows; without a residual the sum is its branch.
NormResult RunNorm(const Norm* norm, const ResidualSum& sum, const at::Tensor& sum_result, const SublayerStats& stats) {
  const at::Tensor& branch = sum.branch;
  const int64_t tokens = branch.size(0);
  const int64_t dim = branch.size(1);
  NormResult result;
  if (norm != nullptr) {
    result.output = at::empty_like(branch);
    if (norm->kind != NormKind::kDyt) result.inv_rms = at::empty({tokens}, branch.options());
  }
  std::vector<RowStats> branch_rows(stats.branch != nullptr ? tokens : 0);
  std::vector<RowStats> stream_rows(stats.output != nullptr ? tokens : 0);
  WithElementType(branch, [&]<typename T>(T) {
    const auto kernel = Kernels<T>().norm;
    const NormWeights<T> weights = norm != nullptr ? WeightsOf<T>(*norm) : NormWeights<T>{};
    const bool has_sum = sum.residual.defined();
    const NormRows<T> all = {.dim = dim,
                             .residual = has_sum ? sum.residual.const_data_ptr<T>() : nullptr,
                             .residual_scale = static_cast<T>(sum.residual_scale),
                             .branch = branch.const_data_ptr<T>(),
                             .branch_scale = static_cast<T>(sum.branch_scale),
                             .branch_gain = sum.branch_gain.defined() ? sum.branch_gain.const_data_ptr<T>() : nullptr,
                             .sum_scale = static_cast<T>(sum.sum_scale),
                             .rounds_sum = sum.is_rounded,
                             .sum = has_sum ? sum_result.mutable_data_ptr<T>() : nullptr,
                             .norm = norm != nullptr ? &weights : nullptr,
                             .output = norm != nullptr ? result.output.mutable_data_ptr<T>() : nullptr,
                             .inv_rms = result.inv_rms.defined() ? result.inv_rms.mutable_data_ptr<T>() : nullptr};
    ForEachChunk(tokens, [&](int64_t /*chunk*/, int64_t row, int64_t rows) {
      NormRows<T> part = all;
      part.rows = rows;
      part.branch += row * dim;
      if (part.residual != nullptr) part.residual += row * dim;
      if (part.sum != nullptr) part.sum += row * dim;
      if (part.output != nullptr) part.output += row * dim;
      if (part.inv_rms != nullptr) part.inv_rms += row;
      if (stats.branch != nullptr) part.branch_stats = &branch_rows[row];
      if (stats.output != nullptr) part.stream_stats = &stream_rows[row];
      kernel(part);
    });
  });
  if (stats.branch != nullptr) *stats.branch = Summarize(branch_rows, stats.counted);
  if (stats.output != nullptr) *stats.output = Summarize(stream_rows, stats.counted);
  return result;
}

/// Own kernels know one type; under a model in bfloat16 the stream may be wider than its norms.
bool HasTypeOf(const Norm* norm, const at::Tensor& x) {
  return norm == nullptr || norm->gain.scalar_type() == x.scalar_type();
}

}  // namespace

std::vector<at::Tensor> Norm::Weights() const {
  std::vector<at::Tensor> weights = {gain};
  if (bias.defined()) weights.push_back(bias);
  if (alpha.defined()) weights.push_back(alpha);
  return weights;
}

NormResult ApplyNorm(const Norm& norm, const at::Tensor& x) { return AddAndNorm(&norm, {.branch = x}, {}, {}); }

NormResult AddAndNorm(const Norm* norm, const ResidualSum& sum, const at::Tensor& result, const SublayerStats& stats,
                      at::ScalarType output_type) {
  if (HasOwnKernels(sum.branch) && HasTypeOf(norm, sum.branch)) return RunNorm(norm, sum, result, stats);
  if (output_type == at::ScalarType::Undefined && norm != nullptr) output_type = norm->gain.scalar_type();
  return portable::RunNorm(norm, sum, result, stats, output_type);
}

TokenStats StatsOf(const at::Tensor& x, const at::Tensor& counted) {
  TokenStats stats;
  AddAndNorm(nullptr, {.branch = x}, {}, {.counted = counted, .output = &stats});
  return stats;
}

NormGradient NormBackward(const Norm& norm, const at::Tensor& grad_output, const at::Tensor& x,
                          const at::Tensor& inv_rms, const at::Tensor& add, double add_scale) {
  if (!HasOwnKernels(x) || !HasTypeOf(&norm, x))
    return portable::NormBackward(norm, grad_output, x, inv_rms, add, add_scale);
  const int64_t tokens = x.size(0);
  const int64_t dim = x.size(1);
  const at::Tensor grad_x = at::empty_like(x);
  const at::Tensor chunk_gains = at::zeros({NumChunks(tokens), dim}, x.options());
  const at::Tensor chunk_biases = norm.bias.defined() ? at::zeros({NumChunks(tokens), dim}, x.options()) : at::Tensor();
  std::vector<double> chunk_alphas(norm.alpha.defined() ? NumChunks(tokens) : 0);
  WithElementType(x, [&]<typename T>(T) {
    const auto kernel = Kernels<T>().norm_grad;
    const NormWeights<T> weights = WeightsOf<T>(norm);
    const NormGradRows<T> all = {.dim = dim,
                                 .norm = &weights,
                                 .grad_output = grad_output.const_data_ptr<T>(),
                                 .x = x.const_data_ptr<T>(),
                                 .inv_rms = inv_rms.defined() ? inv_rms.const_data_ptr<T>() : nullptr,
                                 .add = add.defined() ? add.const_data_ptr<T>() : nullptr,
                                 .add_scale = static_cast<T>(add_scale),
                                 .grad_x = grad_x.mutable_data_ptr<T>(),
                                 .grad_gain = chunk_gains.mutable_data_ptr<T>(),
                                 .grad_bias = chunk_biases.defined() ? chunk_biases.mutable_data_ptr<T>() : nullptr};
    ForEachChunk(tokens, [&](int64_t chunk, int64_t row, int64_t rows) {
      NormGradRows<T> part = all;
      part.rows = rows;
      part.grad_output += row * dim;
      part.x += row * dim;
      if (part.inv_rms != nullptr) part.inv_rms += row;
      if (part.add != nullptr) part.add += row * dim;
      part.grad_x += row * dim;
      part.grad_gain += chunk * dim;
      if (part.grad_bias != nullptr) part.grad_bias += chunk * dim;
      if (!chunk_alphas.empty()) part.grad_alpha = &chunk_alphas[chunk];
      kernel(part);
    });
  });
  NormGradient gradient = {.x = grad_x, .parameters = {chunk_gains.sum(0)}};
  if (chunk_biases.defined()) gradient.parameters.push_back(chunk_biases.sum(0));
  if (!chunk_alphas.empty()) {
    double sum = 0;
    for (const double chunk : chunk_alphas) sum += chunk;
    gradient.parameters.push_back(at::full({1}, sum, x.options()));
  }
  return gradient;
}

at::Tensor SumOfProducts(const at::Tensor& a, const at::Tensor& b) {
  if (!HasOwnKernels(a) || a.scalar_type() != b.scalar_type()) return ops::ColumnProducts(a, b);
  const int64_t tokens = a.size(0);
  const int64_t dim = a.size(1);
  const at::Tensor chunks = at::zeros({NumChunks(tokens), dim}, a.options());
  WithElementType(a, [&]<typename T>(T) {
    const T* left = a.const_data_ptr<T>();
    const T* right = b.const_data_ptr<T>();
    T* sums = chunks.mutable_data_ptr<T>();
    ForEachChunk(tokens, [&](int64_t chunk, int64_t row, int64_t rows) {
      Kernels<T>().column_products(
          {.rows = rows, .dim = dim, .a = left + row * dim, .b = right + row * dim, .sums = sums + chunk * dim});
    });
  });
  return chunks.sum(0);
}

}  // namespace normlab::trainer
