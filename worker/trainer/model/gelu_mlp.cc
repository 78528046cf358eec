#include "worker/trainer/model/gelu_mlp.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

constexpr char kTanh[] = "tanh";

struct GeluMlpSaved : BranchSaved {
  at::Tensor up;  // [tokens, ffn_hidden], before GELU
};

}  // namespace

GeluMlpBranch::GeluMlpBranch(int64_t hidden, int64_t ffn_hidden, at::TensorOptions options)
    : up_(at::zeros({hidden, ffn_hidden}, options)),
      up_bias_(at::zeros({ffn_hidden}, options)),
      down_(at::zeros({ffn_hidden, hidden}, options)),
      down_bias_(at::zeros({hidden}, options)),
      parameters_{Trainable(up_), Trainable(up_bias_), Trainable(down_), Trainable(down_bias_)} {}

at::Tensor GeluMlpBranch::Forward(const BranchContext&, const at::Tensor& input,
                                  std::unique_ptr<BranchSaved>* saved) const {
  auto own = std::make_unique<GeluMlpSaved>();
  own->up = at::addmm(up_bias_, input, up_);
  const at::Tensor result = at::addmm(down_bias_, at::gelu(own->up, kTanh), down_);
  *saved = std::move(own);
  return result;
}

BranchGradient GeluMlpBranch::Backward(const BranchContext&, const at::Tensor& input,
                                       std::unique_ptr<BranchSaved> saved, const at::Tensor& grad_output,
                                       const at::Tensor& add, double add_scale) const {
  const at::Tensor& up = static_cast<const GeluMlpSaved&>(*saved).up;
  const at::Tensor grad_up = at::gelu_backward(at::mm(grad_output, down_.t()), up, kTanh);
  return {.input = add.defined() ? at::addmm(add, grad_up, up_.t(), add_scale) : at::mm(grad_up, up_.t()),
          .parameters = {at::mm(input.t(), grad_up), grad_up.sum(0), at::mm(at::gelu(up, kTanh).t(), grad_output),
                         grad_output.sum(0)}};
}

double GeluMlpBranch::FlopsPerToken(int64_t) const {
  double weights = 0;
  for (const at::Tensor& parameter : parameters_) weights += static_cast<double>(parameter.numel());
  return 6 * weights;
}

}  // namespace normlab::trainer
