#include "worker/trainer/model/biased_attention.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

struct BiasedAttentionSaved : BranchSaved {
  CausalAttention attention;
};

}  // namespace

RotaryTable MakeIdentityRotaryTable(int64_t seq, int64_t head_dim, at::TensorOptions options) {
  return {.cosine = at::ones({seq, head_dim / 2}, options), .sine = at::zeros({seq, head_dim / 2}, options)};
}

BiasedAttentionBranch::BiasedAttentionBranch(int64_t hidden, int64_t num_heads, at::TensorOptions options)
    : num_heads_(num_heads),
      qkv_(at::zeros({hidden, 3 * hidden}, options)),
      qkv_bias_(at::zeros({3 * hidden}, options)),
      output_(at::zeros({hidden, hidden}, options)),
      output_bias_(at::zeros({hidden}, options)),
      parameters_{Trainable(qkv_), Trainable(qkv_bias_), Trainable(output_), Trainable(output_bias_)} {}

at::Tensor BiasedAttentionBranch::Forward(const BranchContext& context, const at::Tensor& input,
                                          std::unique_ptr<BranchSaved>* saved) const {
  auto own = std::make_unique<BiasedAttentionSaved>();
  own->attention = ApplyCausalAttention(context.rotary, num_heads_, at::addmm(qkv_bias_, input, qkv_));
  const at::Tensor result = at::addmm(output_bias_, own->attention.context, output_);
  *saved = std::move(own);
  return result;
}

BranchGradient BiasedAttentionBranch::Backward(const BranchContext& context, const at::Tensor& input,
                                               std::unique_ptr<BranchSaved> saved, const at::Tensor& grad_output,
                                               const at::Tensor& add, double add_scale) const {
  const CausalAttention& attention = static_cast<const BiasedAttentionSaved&>(*saved).attention;
  const at::Tensor grad_qkv = CausalAttentionBackward(context.rotary, attention, at::mm(grad_output, output_.t()));
  return {.input = add.defined() ? at::addmm(add, grad_qkv, qkv_.t(), add_scale) : at::mm(grad_qkv, qkv_.t()),
          .parameters = {at::mm(input.t(), grad_qkv), grad_qkv.sum(0), at::mm(attention.context.t(), grad_output),
                         grad_output.sum(0)}};
}

double BiasedAttentionBranch::FlopsPerToken(int64_t seq_len) const {
  double weights = 0;
  for (const at::Tensor& parameter : parameters_) weights += static_cast<double>(parameter.numel());
  return 6 * weights + 12 * static_cast<double>(output_.size(0) * seq_len);
}

}  // namespace normlab::trainer
