#include "worker/trainer/model/lightning_branch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sigmoid_backward.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

/// Positions per chunk: with head sizes of 32 to 128, about where the two parts of the work are equal.
constexpr int64_t kChunk = 64;

struct LightningBranchSaved : BranchSaved {
  at::Tensor projected;  // [tokens, 4 * hidden]: query, key, value, gate, before silu and sigmoid
  LightningSaved attention;
  at::Tensor context;  // [tokens, hidden], before the norm
  at::Tensor inv_rms;
  at::Tensor gate;    // sigmoid(W_g x)
  at::Tensor normed;  // N(o)
};

/// [tokens, 3 * hidden] to [3, batch, heads, seq, head_dim], without a copy.
at::Tensor PerHead(const at::Tensor& qkv, int64_t seq, int64_t num_heads) {
  return qkv.view({qkv.size(0) / seq, seq, 3, num_heads, -1}).permute({2, 0, 3, 1, 4});
}

}  // namespace

LightningBranch::LightningBranch(const Shape& shape, at::TensorOptions options)
    : num_heads_(shape.num_heads),
      decay_(MakeLightningDecay(LightningSlopes(shape.num_heads, shape.layer0, shape.num_layers), kChunk,
                                c10::typeMetaToScalarType(options.dtype()))),
      norm_{at::ones({shape.hidden}, options), /*output_scale=*/1, shape.norm_eps},
      input_(at::empty({4 * shape.hidden, shape.hidden}, options)),
      output_(at::empty({shape.hidden, shape.hidden}, options)) {
  for (int64_t part = 0; part < 4; ++part) {
    parameters_.push_back(Trainable(input_.narrow(0, part * shape.hidden, shape.hidden)));
  }
  parameters_.push_back(Trainable(output_));
  parameters_.push_back(Trainable(norm_.gain));
}

at::Tensor LightningBranch::Forward(const BranchContext& context, const at::Tensor& input,
                                    std::unique_ptr<BranchSaved>* saved) const {
  const int64_t seq = context.rotary.cosine.size(0), hidden = input.size(1);
  auto own = std::make_unique<LightningBranchSaved>();
  own->projected = at::mm(input, input_.t());
  const at::Tensor qkv = PerHead(at::silu(own->projected.narrow(1, 0, 3 * hidden)).contiguous(), seq, num_heads_);
  const at::Tensor heads = LightningForward(decay_, qkv[0], qkv[1], qkv[2], &own->attention);
  own->context = heads.transpose(1, 2).reshape({-1, hidden});  // [tokens, hidden]
  const NormResult normed = ApplyNorm(norm_, own->context);
  own->inv_rms = normed.inv_rms;
  own->normed = normed.output;
  own->gate = at::sigmoid(own->projected.narrow(1, 3 * hidden, hidden));
  const at::Tensor result = at::mm(own->gate * own->normed, output_.t());
  *saved = std::move(own);
  return result;
}

BranchGradient LightningBranch::Backward(const BranchContext& context, const at::Tensor& input,
                                         std::unique_ptr<BranchSaved> saved, const at::Tensor& grad_output,
                                         const at::Tensor& add, double add_scale) const {
  const auto& own = static_cast<const LightningBranchSaved&>(*saved);
  const int64_t seq = context.rotary.cosine.size(0), hidden = input.size(1);
  const at::Tensor grad_product = at::mm(grad_output, output_);  // By sigmoid(W_g x) * N(o).
  const NormGradient norm = NormBackward(norm_, grad_product * own.gate, own.context, own.inv_rms);
  const LightningGradient heads =
      LightningBackward(decay_, own.attention, norm.x.view({-1, seq, num_heads_, hidden / num_heads_}).transpose(1, 2));

  const at::Tensor grad_projected = at::empty_like(own.projected);  // [tokens, 4 * hidden]
  at::Tensor grad_qkv = grad_projected.narrow(1, 0, 3 * hidden);
  const at::Tensor grad_silu = at::empty({input.size(0), 3 * hidden}, input.options());
  const at::Tensor parts = PerHead(grad_silu, seq, num_heads_);
  parts[0].copy_(heads.query);
  parts[1].copy_(heads.key);
  parts[2].copy_(heads.value);
  at::silu_backward_out(grad_qkv, grad_silu, own.projected.narrow(1, 0, 3 * hidden));
  grad_projected.narrow(1, 3 * hidden, hidden).copy_(at::sigmoid_backward(grad_product * own.normed, own.gate));

  BranchGradient gradient;
  gradient.input = add.defined() ? at::addmm(add, grad_projected, input_, add_scale) : at::mm(grad_projected, input_);
  const at::Tensor grad_input_weight = at::mm(grad_projected.t(), input);  // [4 * hidden, hidden]
  for (int64_t part = 0; part < 4; ++part) {
    gradient.parameters.push_back(grad_input_weight.narrow(0, part * hidden, hidden));
  }
  gradient.parameters.push_back(at::mm(grad_output.t(), own.gate * own.normed));
  gradient.parameters.push_back(norm.parameters[0]);
  return gradient;
}

double LightningBranch::FlopsPerToken(int64_t) const {
  const int64_t hidden = output_.size(0);
  return 6 * static_cast<double>(input_.numel() + output_.numel()) +
         12 * static_cast<double>(hidden * (hidden / num_heads_));
}

}  // namespace normlab::trainer
