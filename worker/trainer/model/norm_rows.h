#pragma once

#include "worker/trainer/model/kernels/cpu_kernels.h"
#include "worker/trainer/model/norm.h"

namespace normlab::trainer {

/// A norm as the kernels see it, valid while the norm's tensors are.
template <typename T>
NormWeights<T> WeightsOf(const Norm& norm) {
  return {.formula = static_cast<NormFormula>(norm.kind),
          .gain = norm.gain.const_data_ptr<T>(),
          .bias = norm.bias.defined() ? norm.bias.const_data_ptr<T>() : nullptr,
          .alpha = norm.alpha.defined() ? *norm.alpha.const_data_ptr<T>() : T(0),
          .output_scale = static_cast<T>(norm.output_scale),
          .eps = static_cast<T>(norm.eps)};
}

}  // namespace normlab::trainer
