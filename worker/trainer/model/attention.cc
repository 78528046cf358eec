#include "worker/trainer/model/attention.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

struct AttentionSaved : BranchSaved {
  CausalAttention attention;
};

}  // namespace

AttentionBranch::AttentionBranch(int64_t hidden, int64_t num_heads, at::ScalarType dtype)
    : num_heads_(num_heads), qkv_(at::empty({3 * hidden, hidden}, dtype)), output_(at::empty({hidden, hidden}, dtype)) {
  for (int64_t part = 0; part < 3; ++part) parameters_.push_back(Trainable(qkv_.narrow(0, part * hidden, hidden)));
  parameters_.push_back(Trainable(output_));
}

at::Tensor AttentionBranch::Forward(const BranchContext& context, const at::Tensor& input,
                                    std::unique_ptr<BranchSaved>* saved) const {
  auto own = std::make_unique<AttentionSaved>();
  own->attention = ApplyCausalAttention(context.rotary, num_heads_, at::mm(input, qkv_.t()));
  const at::Tensor result = at::mm(own->attention.context, output_.t());
  *saved = std::move(own);
  return result;
}

BranchGradient AttentionBranch::Backward(const BranchContext& context, const at::Tensor& input,
                                         std::unique_ptr<BranchSaved> saved, const at::Tensor& grad_output,
                                         const at::Tensor& add, double add_scale) const {
  const CausalAttention& attention = static_cast<const AttentionSaved&>(*saved).attention;
  const int64_t hidden = input.size(1);
  const at::Tensor grad_qkv = CausalAttentionBackward(context.rotary, attention, at::mm(grad_output, output_));
  const at::Tensor grad_weight = at::mm(grad_qkv.t(), input);  // [3 * hidden, hidden]
  return {.input = add.defined() ? at::addmm(add, grad_qkv, qkv_, add_scale) : at::mm(grad_qkv, qkv_),
          .parameters = {grad_weight.narrow(0, 0, hidden), grad_weight.narrow(0, hidden, hidden),
                         grad_weight.narrow(0, 2 * hidden, hidden), at::mm(grad_output.t(), attention.context)}};
}

double AttentionBranch::FlopsPerToken(int64_t seq_len) const {
  return 6 * static_cast<double>(qkv_.numel() + output_.numel()) + 12 * static_cast<double>(output_.size(0) * seq_len);
}

}  // namespace normlab::trainer
