#pragma once

#include "worker/trainer/model/norm.h"

namespace normlab::trainer {

/// LayerNorm with gain and bias (arXiv:1607.06450): y = ((x - mean(x)) / sqrt(var(x) + eps) * gain + bias) *
/// output_scale. NormResult::inv_rms is 1 / sqrt(var(x) + eps).
NormResult ApplyLayerNorm(const Norm& norm, const at::Tensor& x);

/// As NormBackward; parameters: gain, bias.
NormGradient LayerNormBackward(const Norm& norm, const at::Tensor& grad_output, const at::Tensor& x,
                               const at::Tensor& inv_rms, const at::Tensor& add, double add_scale);

}  // namespace normlab::trainer
