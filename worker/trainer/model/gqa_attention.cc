#include "worker/trainer/model/gqa_attention.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

struct GqaSaved : BranchSaved {
  CausalAttention attention;
};

}  // namespace

RotaryTable MakeHalfRotaryTable(int64_t seq, int64_t head_dim, double base, at::TensorOptions options) {
  const RotaryTable half = MakeRotaryTable(seq, head_dim / 2, base, options);
  const std::vector<int64_t> rest = {seq, head_dim / 4};
  return {.cosine = at::cat({half.cosine, at::ones(rest, options)}, 1),
          .sine = at::cat({half.sine, at::zeros(rest, options)}, 1)};
}

GqaAttentionBranch::GqaAttentionBranch(int64_t hidden, int64_t num_heads, int64_t num_kv_heads,
                                       at::TensorOptions options)
    : num_heads_(num_heads), num_kv_heads_(num_kv_heads), output_(at::empty({hidden, hidden}, options)) {
  const int64_t kv = num_kv_heads * (hidden / num_heads);
  qkv_ = at::empty({hidden + 2 * kv, hidden}, options);
  parameters_ = {Trainable(qkv_.narrow(0, 0, hidden)), Trainable(qkv_.narrow(0, hidden, kv)),
                 Trainable(qkv_.narrow(0, hidden + kv, kv)), Trainable(output_)};
}

at::Tensor GqaAttentionBranch::Forward(const BranchContext& context, const at::Tensor& input,
                                       std::unique_ptr<BranchSaved>* saved) const {
  const int64_t tokens = input.size(0), hidden = input.size(1), head_dim = hidden / num_heads_;
  const int64_t group = num_heads_ / num_kv_heads_;
  const at::Tensor projected = at::mm(input, qkv_.t());  // [tokens, hidden + 2 * kv]
  // The kernels want a key and a value for each query head.
  const at::Tensor kv = projected.narrow(1, hidden, projected.size(1) - hidden)
                            .view({tokens, 2 * num_kv_heads_, 1, head_dim})
                            .expand({tokens, 2 * num_kv_heads_, group, head_dim})
                            .reshape({tokens, 2 * hidden});
  auto own = std::make_unique<GqaSaved>();
  own->attention = ApplyCausalAttention(context.rotary, num_heads_, at::cat({projected.narrow(1, 0, hidden), kv}, 1));
  const at::Tensor result = at::mm(own->attention.context, output_.t());
  *saved = std::move(own);
  return result;
}

BranchGradient GqaAttentionBranch::Backward(const BranchContext& context, const at::Tensor& input,
                                            std::unique_ptr<BranchSaved> saved, const at::Tensor& grad_output,
                                            const at::Tensor& add, double add_scale) const {
  const CausalAttention& attention = static_cast<const GqaSaved&>(*saved).attention;
  const int64_t tokens = input.size(0), hidden = input.size(1), head_dim = hidden / num_heads_;
  const int64_t group = num_heads_ / num_kv_heads_, kv = num_kv_heads_ * head_dim;
  const at::Tensor grad_heads = CausalAttentionBackward(context.rotary, attention, at::mm(grad_output, output_));
  const at::Tensor grad_kv = grad_heads.narrow(1, hidden, 2 * hidden)
                                 .reshape({tokens, 2 * num_kv_heads_, group, head_dim})
                                 .sum(2)
                                 .view({tokens, 2 * kv});
  const at::Tensor grad_qkv = at::cat({grad_heads.narrow(1, 0, hidden), grad_kv}, 1);
  const at::Tensor grad_weight = at::mm(grad_qkv.t(), input);
  return {.input = add.defined() ? at::addmm(add, grad_qkv, qkv_, add_scale) : at::mm(grad_qkv, qkv_),
          .parameters = {grad_weight.narrow(0, 0, hidden), grad_weight.narrow(0, hidden, kv),
                         grad_weight.narrow(0, hidden + kv, kv), at::mm(grad_output.t(), attention.context)}};
}

double GqaAttentionBranch::FlopsPerToken(int64_t seq_len) const {
  return 6 * static_cast<double>(qkv_.numel() + output_.numel()) + 12 * static_cast<double>(output_.size(0) * seq_len);
}

}  // namespace normlab::trainer
