#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "worker/trainer/model/norm.h"

namespace normlab::trainer {

/// RMSNorms on the parts of a joined query, key and value [tokens, 3 * hidden]. A part's gain of size hidden norms its
/// whole width, one of size head_dim each head by itself; a part without a norm stays as it is.
struct QkvNorm {
  std::optional<Norm> parts[3];

  bool IsEmpty() const { return !parts[0] && !parts[1] && !parts[2]; }
};

struct QkvNormResult {
  at::Tensor output;   // [tokens, 3 * hidden]
  at::Tensor inv_rms;  // [tokens, 3, hidden / smallest gain]; what a part does not use is undefined.
};

QkvNormResult ApplyQkvNorm(const QkvNorm& norm, const at::Tensor& qkv);

/// Turns `grad`, the gradient by the output, into that by qkv, in place. Returns the gradients of the gains, in the
/// order of the parts that have one.
std::vector<at::Tensor> QkvNormBackward(const QkvNorm& norm, const at::Tensor& qkv, const QkvNormResult& result,
                                        const at::Tensor& grad);

}  // namespace normlab::trainer
