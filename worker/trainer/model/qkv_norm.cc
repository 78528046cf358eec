#include "worker/trainer/model/qkv_norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "worker/trainer/model/norm_rows.h"
#include "worker/trainer/model/portable.h"
#include "worker/trainer/model/rows.h"

namespace normlab::trainer {
namespace {

/// How a part of one token is seen by the kernels: as rows of the gain's size.
struct PartRows {
  int64_t rows;
  int64_t dim;
};

PartRows RowsOf(const Norm& norm, int64_t hidden) { return {hidden / norm.gain.size(0), norm.gain.size(0)}; }

int64_t MostRows(const QkvNorm& norm, int64_t hidden) {
  int64_t most = 1;
  for (const std::optional<Norm>& part : norm.parts) {
    if (part) most = std::max(most, RowsOf(*part, hidden).rows);
  }
  return most;
}

template <typename T>
void NormToken(const NormWeights<T>& weights, const PartRows& shape, const T* from, T* to, T* inv_rms) {
  Kernels<T>().norm(
      {.rows = shape.rows, .dim = shape.dim, .branch = from, .norm = &weights, .output = to, .inv_rms = inv_rms});
}

QkvNormResult ApplyPortably(const QkvNorm& norm, const at::Tensor& qkv) {
  const int64_t tokens = qkv.size(0), hidden = qkv.size(1) / 3, most = MostRows(norm, hidden);
  const QkvNormResult result = {
      .output = qkv.clone(),
      .inv_rms = at::empty({tokens, 3, most},
                           qkv.options().dtype(qkv.scalar_type() == at::kDouble ? at::kDouble : at::kFloat))};
  for (int64_t p = 0; p < 3; ++p) {
    if (!norm.parts[p]) continue;
    const PartRows shape = RowsOf(*norm.parts[p], hidden);
    const NormResult normed = ApplyNorm(*norm.parts[p], qkv.narrow(1, p * hidden, hidden).reshape({-1, shape.dim}));
    result.output.narrow(1, p * hidden, hidden).copy_(normed.output.view({tokens, hidden}));
    result.inv_rms.select(1, p).narrow(1, 0, shape.rows).copy_(normed.inv_rms.view({tokens, shape.rows}));
  }
  return result;
}

std::vector<at::Tensor> BackwardPortably(const QkvNorm& norm, const at::Tensor& qkv, const QkvNormResult& result,
                                         const at::Tensor& grad) {
  const int64_t tokens = qkv.size(0), hidden = qkv.size(1) / 3;
  std::vector<at::Tensor> gradients;
  for (int64_t p = 0; p < 3; ++p) {
    if (!norm.parts[p]) continue;
    const PartRows shape = RowsOf(*norm.parts[p], hidden);
    const at::Tensor part = grad.narrow(1, p * hidden, hidden);
    const NormGradient one = NormBackward(*norm.parts[p], part.reshape({-1, shape.dim}),
                                          qkv.narrow(1, p * hidden, hidden).reshape({-1, shape.dim}),
                                          result.inv_rms.select(1, p).narrow(1, 0, shape.rows).reshape({-1}));
    part.copy_(one.x.view({tokens, hidden}));
    gradients.push_back(one.parameters[0]);
  }
  return gradients;
}

}  // namespace

QkvNormResult ApplyQkvNorm(const QkvNorm& norm, const at::Tensor& qkv) {
  if (!HasOwnKernels(qkv)) return ApplyPortably(norm, qkv);
  const int64_t tokens = qkv.size(0), hidden = qkv.size(1) / 3, most = MostRows(norm, hidden);
  const QkvNormResult result = {.output = at::empty_like(qkv), .inv_rms = at::empty({tokens, 3, most}, qkv.options())};
  WithElementType(qkv, [&]<typename T>(T) {
    const T* from = qkv.const_data_ptr<T>();
    T* to = result.output.mutable_data_ptr<T>();
    T* inv_rms = result.inv_rms.mutable_data_ptr<T>();
    for (int64_t p = 0; p < 3; ++p) {
      const std::optional<Norm>& part = norm.parts[p];
      const NormWeights<T> weights = part ? WeightsOf<T>(*part) : NormWeights<T>{};
      ForEachChunk(tokens, [&](int64_t, int64_t first, int64_t count) {
        for (int64_t token = first; token < first + count; ++token) {
          const int64_t place = (token * 3 + p) * hidden;
          if (part) {
            NormToken<T>(weights, RowsOf(*part, hidden), from + place, to + place, inv_rms + (token * 3 + p) * most);
          } else {
            std::copy_n(from + place, hidden, to + place);
          }
        }
      });
    }
  });
  return result;
}

std::vector<at::Tensor> QkvNormBackward(const QkvNorm& norm, const at::Tensor& qkv, const QkvNormResult& result,
                                        const at::Tensor& grad) {
  if (!HasOwnKernels(qkv)) return BackwardPortably(norm, qkv, result, grad);
  const int64_t tokens = qkv.size(0), hidden = qkv.size(1) / 3, most = MostRows(norm, hidden);
  std::vector<at::Tensor> gradients;
  WithElementType(qkv, [&]<typename T>(T) {
    const T* x = qkv.const_data_ptr<T>();
    const T* inv_rms = result.inv_rms.const_data_ptr<T>();
    T* grads = grad.mutable_data_ptr<T>();
    for (int64_t p = 0; p < 3; ++p) {
      if (!norm.parts[p]) continue;
      const NormWeights<T> weights = WeightsOf<T>(*norm.parts[p]);
      const PartRows shape = RowsOf(*norm.parts[p], hidden);
      const at::Tensor chunk_gains = at::zeros({NumChunks(tokens), shape.dim}, qkv.options());
      T* gains = chunk_gains.mutable_data_ptr<T>();
      ForEachChunk(tokens, [&](int64_t chunk, int64_t first, int64_t count) {
        for (int64_t token = first; token < first + count; ++token) {
          const int64_t place = (token * 3 + p) * hidden;
          Kernels<T>().norm_grad({.rows = shape.rows,
                                  .dim = shape.dim,
                                  .norm = &weights,
                                  .grad_output = grads + place,
                                  .x = x + place,
                                  .inv_rms = inv_rms + (token * 3 + p) * most,
                                  .grad_x = grads + place,
                                  .grad_gain = gains + chunk * shape.dim});
        }
      });
      gradients.push_back(chunk_gains.sum(0));
    }
  });
  return gradients;
}

}  // namespace normlab::trainer
