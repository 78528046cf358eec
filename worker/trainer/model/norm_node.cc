#include "worker/trainer/model/norm_node.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <iterator>
#include <utility>

#include "worker/trainer/model/autograd.h"

namespace normlab::trainer {
namespace {

struct NormNode : torch::autograd::Node {
  Norm norm;
  at::Tensor x;
  at::Tensor inv_rms;

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    CheckFirstBackward(x.defined());
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    NormGradient gradient = NormBackward(norm, grads[0].contiguous(), std::exchange(x, at::Tensor()), inv_rms);
    torch::autograd::variable_list gradients = {gradient.x};
    std::move(gradient.parameters.begin(), gradient.parameters.end(), std::back_inserter(gradients));
    return gradients;
  }

  void release_variables() override { x = at::Tensor(); }
};

}  // namespace

at::Tensor TrainableNorm(const Norm& norm, const std::vector<at::Tensor>& trainable, const at::Tensor& x) {
  NormResult result;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = ApplyNorm(norm, x);
  }
  if (!torch::autograd::compute_requires_grad(x, trainable[0])) return result.output;
  auto node = MakeNode<NormNode>();
  node->norm = norm;
  node->x = x.detach();
  node->inv_rms = result.inv_rms;
  torch::autograd::edge_list edges = {torch::autograd::impl::gradient_edge(x)};
  for (const at::Tensor& weight : trainable) edges.push_back(torch::autograd::impl::gradient_edge(weight));
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(result.output, node);
  return result.output;
}

}  // namespace normlab::trainer
