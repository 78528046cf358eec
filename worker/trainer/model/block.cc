#include "worker/trainer/model/block.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <cmath>
#include <iterator>
#include <utility>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

/// What a sublayer's gradient needs of its forward. What is undefined was not needed.
struct SublayerSaved {
  at::Tensor x;      // The stream before it.
  at::Tensor input;  // n of SublayerPlan: what the branch read.
  at::Tensor input_inv_rms;
  std::unique_ptr<BranchSaved> branch;
  at::Tensor branch_output;  // For the norm over it.
  at::Tensor branch_inv_rms;
  at::Tensor added;  // The branch before its learned scale.
  at::Tensor sum;    // For the norm over it.
  at::Tensor sum_inv_rms;
  at::Tensor output;  // For the gate on it.
};

using BlockSaved = std::array<SublayerSaved, 2>;

SublayerStats WantedOf(BlockStats* stats, const at::Tensor& counted, size_t sublayer) {
  if (stats == nullptr) return {};
  if (sublayer == 0) return {.counted = counted, .branch = &stats->attention};
  return {.counted = counted, .branch = &stats->ffn, .output = &stats->output};
}

const Norm* OrNull(const std::optional<Norm>& norm) { return norm ? &*norm : nullptr; }

/// What the branches compute in; the stream may be wider.
at::ScalarType TypeOf(const Block& block) { return block.parameters[0].scalar_type(); }

NormResult InputOf(const Norm* norm, const at::Tensor& x, at::ScalarType type) {
  return norm != nullptr ? ApplyNorm(*norm, x) : NormResult{.output = x.to(type)};
}

/// GPAS: G(v) = (1 - silu(a)) v, whose gradient by v is taken as 1.
struct GateValue {
  double passed = 1;  // 1 - silu(a)
  double slope = 0;   // Its derivative by a.
};

GateValue GateOf(const Block& block) {
  if (!block.gate.defined()) return {};
  const double a = block.gate.item<double>();
  const double sigmoid = 1 / (1 + std::exp(-a));
  return {.passed = 1 - a * sigmoid, .slope = -(sigmoid + a * sigmoid * (1 - sigmoid))};
}

/// The branch up to the sum: what is added to the residual, and where the sum may be written.
struct Added {
  ResidualSum sum;
  at::Tensor result;
};

Added AddedBy(const Sublayer& sublayer, const BranchContext& context, SublayerSaved* own) {
  at::Tensor branch = sublayer.branch->Forward(context, own->input, &own->branch);
  if (sublayer.branch_norm) {
    own->branch_output = branch;
    const NormResult normed = ApplyNorm(*sublayer.branch_norm, branch);
    own->branch_inv_rms = normed.inv_rms;
    branch = normed.output;
  }
  const SublayerPlan& plan = sublayer.plan;
  Added added = {.sum = {.residual = plan.residual_is_normed ? own->input : own->x,
                         .residual_scale = plan.residual_scale,
                         .branch = branch,
                         .branch_scale = plan.branch_scale,
                         .sum_scale = plan.sum_scale},
                 .result = branch.scalar_type() == own->x.scalar_type() ? branch : at::empty_like(own->x)};
  if (!sublayer.branch_scale.defined()) return added;
  own->added = branch;
  added.result = at::empty_like(own->x);  // The gradient by the scale needs the branch.
  if (sublayer.branch_scale.numel() == 1) {
    added.sum.branch_scale = sublayer.branch_scale.item<double>();
  } else {
    added.sum.branch_scale = 1;
    added.sum.branch_gain = sublayer.branch_scale;
  }
  return added;
}

at::Tensor BlockForward(const Block& block, const BranchContext& context, at::Tensor x, const at::Tensor& counted,
                        BlockStats* stats, BlockSaved* saved) {
  const double passed = GateOf(block).passed;
  const at::ScalarType stream_type = x.scalar_type(), type = TypeOf(block);
  NormResult input = InputOf(OrNull(block.sublayers[0].input_norm), x, type);
  for (size_t i = 0; i < block.sublayers.size(); ++i) {
    const Sublayer& sublayer = block.sublayers[i];
    const Norm* next_norm = i + 1 < block.sublayers.size() ? OrNull(block.sublayers[i + 1].input_norm) : nullptr;
    SublayerSaved& own = (*saved)[i];
    own = {.x = x, .input = input.output, .input_inv_rms = input.inv_rms};
    Added added = AddedBy(sublayer, context, &own);
    if (stats != nullptr && own.branch->dropped_ratio) stats->dropped_ratio = own.branch->dropped_ratio;
    added.sum.is_rounded = block.rounds_stream;
    if (sublayer.plan.gate == Gate::kResidual) added.sum.residual_scale *= passed;
    if (sublayer.plan.gate == Gate::kSum) added.sum.sum_scale *= passed;
    // One pass makes the sum and the first norm that reads it, whichever sublayer that belongs to.
    const Norm* sum_norm = OrNull(sublayer.sum_norm);
    const NormResult normed = AddAndNorm(sum_norm != nullptr ? sum_norm : next_norm, added.sum, added.result,
                                         WantedOf(stats, counted, i), sum_norm != nullptr ? stream_type : type);
    if (sum_norm != nullptr) {
      own.sum = added.result;
      own.sum_inv_rms = normed.inv_rms;
      x = normed.output;
      input = InputOf(next_norm, x, type);
    } else {
      x = added.result;
      input = next_norm != nullptr ? normed : NormResult{.output = x.to(type)};
      if (sublayer.plan.gate == Gate::kSum) own.output = x;
    }
  }
  return x;
}

void Append(std::vector<at::Tensor> from, std::vector<at::Tensor>* to) {
  std::move(from.begin(), from.end(), std::back_inserter(*to));
}

/// Gradients by a sublayer's parameters, each part in the order of its owner.
struct SublayerGradient {
  std::vector<at::Tensor> branch;
  std::vector<at::Tensor> input_norm;
  std::vector<at::Tensor> branch_norm;
  std::vector<at::Tensor> sum_norm;
  std::vector<at::Tensor> branch_scale;
  double passed = 0;  // By GateValue::passed, but for the slope.
};

/// From the gradient of residual_scale r + branch_scale Nb(branch(n)) to that of the branch's output.
at::Tensor BranchOutputGradient(const Sublayer& sublayer, const SublayerSaved& own, const at::Tensor& grad_sum,
                                SublayerGradient* gradient) {
  at::Tensor grad = grad_sum;
  if (sublayer.branch_scale.defined()) {
    const at::Tensor products = SumOfProducts(grad, own.added);
    gradient->branch_scale = {sublayer.branch_scale.numel() == 1 ? products.sum().view({1}) : products};
    grad = grad.mul(sublayer.branch_scale);
  } else if (sublayer.plan.branch_scale != 1) {
    grad = grad.mul(sublayer.plan.branch_scale);
  }
  if (sublayer.branch_norm) {
    NormGradient norm = NormBackward(*sublayer.branch_norm, grad, own.branch_output, own.branch_inv_rms);
    gradient->branch_norm = std::move(norm.parameters);
    grad = norm.x;
  }
  return grad.to(own.input.scalar_type());
}

/// The gradient by the stream before the sublayer, from that by the stream behind it.
at::Tensor SublayerBackward(const Sublayer& sublayer, const BranchContext& context, double passed, SublayerSaved own,
                            at::Tensor grad, SublayerGradient* gradient) {
  const SublayerPlan& plan = sublayer.plan;
  if (sublayer.sum_norm) {
    NormGradient sum = NormBackward(*sublayer.sum_norm, grad, own.sum, own.sum_inv_rms);
    gradient->sum_norm = std::move(sum.parameters);
    grad = sum.x;
  }
  if (plan.gate == Gate::kSum) {
    gradient->passed += SumOfProducts(grad, own.output).sum(at::kDouble).item<double>() / passed;
  }
  if (plan.sum_scale != 1) grad = grad.mul(plan.sum_scale);
  if (plan.gate == Gate::kResidual) {
    gradient->passed += plan.residual_scale * SumOfProducts(grad, own.x).sum(at::kDouble).item<double>();
  }
  const at::Tensor grad_branch = BranchOutputGradient(sublayer, own, grad, gradient);
  // The residual's part joins wherever the residual was read: before the norm or behind it.
  const bool joins_input = !sublayer.input_norm || plan.residual_is_normed;
  // Where the stream is wider than the branch, the branch must not narrow the residual's part.
  const bool is_mixed = grad.scalar_type() != own.input.scalar_type();
  BranchGradient branch =
      sublayer.branch->Backward(context, own.input, std::move(own.branch), grad_branch,
                                joins_input && !is_mixed ? grad : at::Tensor(), plan.residual_scale);
  if (joins_input && is_mixed) branch.input = at::add(branch.input.to(grad.scalar_type()), grad, plan.residual_scale);
  gradient->branch = std::move(branch.parameters);
  if (!sublayer.input_norm) return branch.input;
  NormGradient input = NormBackward(*sublayer.input_norm, branch.input, own.x, own.input_inv_rms,
                                    joins_input ? at::Tensor() : grad, plan.residual_scale);
  gradient->input_norm = std::move(input.parameters);
  return input.x;
}

/// The gradient by x; those by the block's parameters are appended to `gradients` in their order.
at::Tensor BlockBackward(const Block& block, const BranchContext& context, BlockSaved saved, at::Tensor grad,
                         std::vector<at::Tensor>* gradients) {
  const GateValue gate = GateOf(block);
  std::array<SublayerGradient, 2> parts;
  for (size_t i = block.sublayers.size(); i-- > 0;) {
    grad = SublayerBackward(block.sublayers[i], context, gate.passed, std::move(saved[i]), grad, &parts[i]);
  }
  for (SublayerGradient& part : parts) Append(std::move(part.branch), gradients);
  for (SublayerGradient& part : parts) {
    for (auto* own : {&part.input_norm, &part.branch_norm, &part.sum_norm, &part.branch_scale}) {
      Append(std::move(*own), gradients);
    }
  }
  if (block.gate.defined()) {
    gradients->push_back(at::full({1}, gate.slope * (parts[0].passed + parts[1].passed), block.gate.options()));
  }
  return grad;
}

/// One node for the whole block: a graph of its fifty small operations costs more than the arithmetic between the
/// products.
struct BlockNode : torch::autograd::Node {
  std::shared_ptr<const Block> block;
  BranchContext context;
  BlockSaved saved;

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    CheckFirstBackward(saved[0].input.defined());
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    BlockSaved used = std::exchange(saved, {});
    if (grads.size() > 1 && grads[1].defined()) {
      for (SublayerSaved& own : used) own.branch->grad_auxiliary_loss = grads[1].item<double>();
    }
    torch::autograd::variable_list gradients = {at::Tensor()};
    gradients[0] = BlockBackward(*block, context, std::move(used), grads[0].contiguous(), &gradients);
    return gradients;
  }

  void release_variables() override { saved = {}; }
};

at::Tensor SumOfAuxiliaryLosses(const BlockSaved& saved) {
  at::Tensor sum;
  for (const SublayerSaved& own : saved) {
    const at::Tensor& loss = own.branch->auxiliary_loss;
    if (loss.defined()) sum = sum.defined() ? sum.add(loss) : loss;
  }
  return sum;
}

}  // namespace

BlockOutput ApplyBlock(const std::shared_ptr<const Block>& block, const BranchContext& context, const at::Tensor& x,
                       const at::Tensor& counted, BlockStats* stats) {
  BlockSaved saved;
  BlockOutput output;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    output.x = BlockForward(*block, context, x, counted, stats, &saved);
    output.auxiliary_loss = SumOfAuxiliaryLosses(saved);
  }
  if (!torch::autograd::compute_requires_grad(x, block->parameters[0])) return output;
  auto node = MakeNode<BlockNode>();
  node->block = block;
  node->context = context;
  node->saved = std::move(saved);
  torch::autograd::edge_list edges = {torch::autograd::impl::gradient_edge(x)};
  for (const at::Tensor& parameter : block->parameters) {
    edges.push_back(torch::autograd::impl::gradient_edge(parameter));
  }
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(output.x, node);
  if (output.auxiliary_loss.defined()) torch::autograd::set_history(output.auxiliary_loss, node);
  return output;
}

}  // namespace normlab::trainer
