#include "worker/trainer/model/layer_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>

namespace normlab::trainer {

NormResult ApplyLayerNorm(const Norm& norm, const at::Tensor& x) {
  auto [output, mean, inv_deviation] = at::native_layer_norm(x, {x.size(1)}, norm.gain, norm.bias, norm.eps);
  if (norm.output_scale != 1) output.mul_(norm.output_scale);
  return {.output = output, .inv_rms = inv_deviation.view({-1})};
}

NormGradient LayerNormBackward(const Norm& norm, const at::Tensor& grad_output, const at::Tensor& x,
                               const at::Tensor& inv_rms, const at::Tensor& add, double add_scale) {
  const at::Tensor grad = norm.output_scale == 1 ? grad_output : grad_output * norm.output_scale;
  const auto [grad_x, grad_gain, grad_bias] =
      at::native_layer_norm_backward(grad, x, {x.size(1)}, x.mean(-1, /*keepdim=*/true), inv_rms.view({-1, 1}),
                                     norm.gain, norm.bias, {true, true, true});
  if (add.defined()) grad_x.add_(add, add_scale);
  return {.x = grad_x, .parameters = {grad_gain, grad_bias}};
}

}  // namespace normlab::trainer
