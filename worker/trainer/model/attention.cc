#include "worker/trainer/model/attention.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

struct AttentionSaved : BranchSaved {
  CausalAttention attention;
  at::Tensor projected;  // Query, key and value before their norms; undefined without norms.
  QkvNormResult normed;
};

QkvNorm MakeQkvNorm(const QkvNorms& plan, int64_t hidden, int64_t head_dim, double eps, at::TensorOptions options) {
  const auto make = [&](int64_t dim) { return Norm{.gain = at::ones({dim}, options), .eps = eps}; };
  QkvNorm norm;
  for (int part : {0, 1}) {
    if (plan.query_key != QkNorm::kNone) norm.parts[part] = make(plan.query_key == QkNorm::kFull ? hidden : head_dim);
  }
  if (plan.value) norm.parts[2] = make(head_dim);
  return norm;
}

}  // namespace

AttentionBranch::AttentionBranch(int64_t hidden, int64_t num_heads, at::TensorOptions options, const QkvNorms& norms,
                                 double norm_eps)
    : num_heads_(num_heads),
      qkv_(at::empty({3 * hidden, hidden}, options)),
      output_(at::empty({hidden, hidden}, options)),
      norm_(MakeQkvNorm(norms, hidden, hidden / num_heads, norm_eps, options)) {
  for (int64_t part = 0; part < 3; ++part) parameters_.push_back(Trainable(qkv_.narrow(0, part * hidden, hidden)));
  parameters_.push_back(Trainable(output_));
  for (const std::optional<Norm>& part : norm_.parts) {
    if (part) parameters_.push_back(Trainable(part->gain));
  }
}

at::Tensor AttentionBranch::Forward(const BranchContext& context, const at::Tensor& input,
                                    std::unique_ptr<BranchSaved>* saved) const {
  auto own = std::make_unique<AttentionSaved>();
  at::Tensor qkv = at::mm(input, qkv_.t());
  if (!norm_.IsEmpty()) {
    own->projected = qkv;
    own->normed = ApplyQkvNorm(norm_, qkv);
    qkv = own->normed.output;
  }
  own->attention = ApplyCausalAttention(context.rotary, num_heads_, qkv);
  const at::Tensor result = at::mm(own->attention.context, output_.t());
  *saved = std::move(own);
  return result;
}

BranchGradient AttentionBranch::Backward(const BranchContext& context, const at::Tensor& input,
                                         std::unique_ptr<BranchSaved> saved, const at::Tensor& grad_output,
                                         const at::Tensor& add, double add_scale) const {
  const AttentionSaved& own = static_cast<const AttentionSaved&>(*saved);
  const int64_t hidden = input.size(1);
  const at::Tensor grad_qkv = CausalAttentionBackward(context.rotary, own.attention, at::mm(grad_output, output_));
  std::vector<at::Tensor> grad_gains;
  if (own.projected.defined()) grad_gains = QkvNormBackward(norm_, own.projected, own.normed, grad_qkv);
  const at::Tensor grad_weight = at::mm(grad_qkv.t(), input);  // [3 * hidden, hidden]
  BranchGradient gradient = {
      .input = add.defined() ? at::addmm(add, grad_qkv, qkv_, add_scale) : at::mm(grad_qkv, qkv_),
      .parameters = {grad_weight.narrow(0, 0, hidden), grad_weight.narrow(0, hidden, hidden),
                     grad_weight.narrow(0, 2 * hidden, hidden), at::mm(grad_output.t(), own.attention.context)}};
  gradient.parameters.insert(gradient.parameters.end(), grad_gains.begin(), grad_gains.end());
  return gradient;
}

double AttentionBranch::FlopsPerToken(int64_t seq_len) const {
  return 6 * static_cast<double>(qkv_.numel() + output_.numel()) + 12 * static_cast<double>(output_.size(0) * seq_len);
}

}  // namespace normlab::trainer
