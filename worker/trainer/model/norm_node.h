#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "worker/trainer/model/norm.h"

namespace normlab::trainer {

/// The norm of x as one autograd node of its own, for norms outside of blocks. `trainable`: Norm::Weights() as autograd
/// knows them.
at::Tensor TrainableNorm(const Norm& norm, const std::vector<at::Tensor>& trainable, const at::Tensor& x);

}  // namespace normlab::trainer
