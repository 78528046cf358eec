#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <memory>

namespace normlab::trainer {

template <typename NodeType>
std::shared_ptr<NodeType> MakeNode() {
  return std::shared_ptr<NodeType>(new NodeType(), torch::autograd::deleteNode);
}

/// A trainable tensor on the same memory.
inline at::Tensor Trainable(const at::Tensor& storage) { return storage.detach().requires_grad_(); }

/// Our nodes use up what they saved, to save memory and passes over it.
inline void CheckFirstBackward(bool has_saved) {
  TORCH_CHECK(has_saved, "backward ran twice over one loss: compute the loss again (retain_graph is not supported)");
  TORCH_CHECK(!at::GradMode::is_enabled(), "the gradient of the model cannot be differentiated again (create_graph)");
}

}  // namespace normlab::trainer
