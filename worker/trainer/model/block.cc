#include "worker/trainer/model/block.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <iterator>
#include <utility>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

/// What a sublayer's gradient needs of its forward.
struct SublayerSaved {
  at::Tensor x;      // The stream before it.
  at::Tensor input;  // What the branch read: the norm of x, or x itself.
  at::Tensor input_inv_rms;
  std::unique_ptr<BranchSaved> branch;
  at::Tensor sum;  // Residual plus branch; only for the norm over it.
  at::Tensor sum_inv_rms;
};

using BlockSaved = std::array<SublayerSaved, 2>;

SublayerStats StatsOf(BlockStats* stats, size_t sublayer) {
  if (stats == nullptr) return {};
  if (sublayer == 0) return {.branch_mean_square = &stats->attention_mean_square};
  return {.branch_mean_square = &stats->ffn_mean_square,
          .output_variance = &stats->output_variance,
          .output_mean_square = &stats->output_mean_square};
}

const Norm* OrNull(const std::optional<Norm>& norm) { return norm ? &*norm : nullptr; }

NormResult InputOf(const Norm* norm, const at::Tensor& x) {
  return norm != nullptr ? ApplyNorm(*norm, x) : NormResult{.output = x};
}

at::Tensor BlockForward(const Block& block, const BranchContext& context, at::Tensor x, BlockStats* stats,
                        BlockSaved* saved) {
  NormResult input = InputOf(OrNull(block.sublayers[0].input_norm), x);
  for (size_t i = 0; i < block.sublayers.size(); ++i) {
    const Sublayer& sublayer = block.sublayers[i];
    const Norm* next_norm = i + 1 < block.sublayers.size() ? OrNull(block.sublayers[i + 1].input_norm) : nullptr;
    SublayerSaved& own = (*saved)[i];
    own = {.x = x, .input = input.output, .input_inv_rms = input.inv_rms};
    const at::Tensor sum = sublayer.branch->Forward(context, own.input, &own.branch);
    if (stats != nullptr && own.branch->dropped_ratio) stats->dropped_ratio = own.branch->dropped_ratio;
    // One pass makes the sum and the first norm that reads it, whichever sublayer that belongs to.
    const Norm* sum_norm = OrNull(sublayer.sum_norm);
    const NormResult normed =
        AddAndNorm(sum_norm != nullptr ? sum_norm : next_norm, sublayer.plan.residual_scale, x, sum, StatsOf(stats, i));
    if (sum_norm != nullptr) {
      own.sum = sum;
      own.sum_inv_rms = normed.inv_rms;
      x = normed.output;
      input = InputOf(next_norm, x);
    } else {
      x = sum;
      input = next_norm != nullptr ? normed : NormResult{.output = x};
    }
  }
  return x;
}

void Append(std::vector<at::Tensor> from, std::vector<at::Tensor>* to) {
  std::move(from.begin(), from.end(), std::back_inserter(*to));
}

/// The gradient by x; those by the block's parameters are appended to `gradients` in their order.
at::Tensor BlockBackward(const Block& block, const BranchContext& context, BlockSaved saved, at::Tensor grad,
                         std::vector<at::Tensor>* gradients) {
  std::array<std::vector<at::Tensor>, 2> branch_gradients, norm_gradients;
  for (size_t i = block.sublayers.size(); i-- > 0;) {
    const Sublayer& sublayer = block.sublayers[i];
    SublayerSaved own = std::move(saved[i]);
    std::vector<at::Tensor> sum_norm_gradients;
    if (sublayer.sum_norm) {
      NormGradient sum = NormBackward(*sublayer.sum_norm, grad, own.sum, own.sum_inv_rms);
      grad = sum.x;
      sum_norm_gradients = std::move(sum.parameters);
    }
    // Here `grad` is that of the sum: of the branch, and residual_scale times of the residual.
    const double scale = sublayer.plan.residual_scale;
    if (sublayer.input_norm) {
      BranchGradient branch = sublayer.branch->Backward(context, own.input, std::move(own.branch), grad);
      NormGradient input = NormBackward(*sublayer.input_norm, branch.input, own.x, own.input_inv_rms, grad, scale);
      grad = input.x;
      branch_gradients[i] = std::move(branch.parameters);
      norm_gradients[i] = std::move(input.parameters);
    } else {
      BranchGradient branch = sublayer.branch->Backward(context, own.input, std::move(own.branch), grad, grad, scale);
      grad = branch.input;
      branch_gradients[i] = std::move(branch.parameters);
    }
    Append(std::move(sum_norm_gradients), &norm_gradients[i]);
  }
  for (auto* parts : {&branch_gradients, &norm_gradients}) {
    for (std::vector<at::Tensor>& part : *parts) Append(std::move(part), gradients);
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
                       BlockStats* stats) {
  BlockSaved saved;
  BlockOutput output;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    output.x = BlockForward(*block, context, x, stats, &saved);
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
