#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

#include "worker/trainer/model/causal_attention.h"

namespace normlab::trainer {

/// What all branches of one forward share.
struct BranchContext {
  RotaryTable rotary;  // Of the positions of one sequence; tokens come as whole sequences one after another.
};

/// What a branch's gradient needs of its forward; each kind of branch derives its own.
struct BranchSaved {
  virtual ~BranchSaved() = default;

  // A scalar that the branch adds to the model's loss (such as the balance loss of a mixture of experts), made by
  // Forward. Undefined where there is none.
  at::Tensor auxiliary_loss;
  // Of a mixture of experts, made by Forward: the part of its tokens' choices for which an expert had no room.
  std::optional<double> dropped_ratio;
  // Set before Backward: the gradient of the model's loss by auxiliary_loss.
  double grad_auxiliary_loss = 0;
};

struct BranchGradient {
  at::Tensor input;                    // [tokens, hidden]
  std::vector<at::Tensor> parameters;  // In the order of Branch::parameters().
};

/// What a sublayer adds to the stream, as a function of its input: attention with its output projection, or a
/// feed-forward network. It knows nothing of norms around it, of the residual or of depth. Immutable but for the values
/// of its parameters; one object may run on several inputs at once.
class Branch {
 public:
  virtual ~Branch() = default;

  /// input: [tokens, hidden]; the same shape comes back, in memory of its own that the caller may overwrite. `saved`
  /// gets what Backward needs.
  virtual at::Tensor Forward(const BranchContext& context, const at::Tensor& input,
                             std::unique_ptr<BranchSaved>* saved) const = 0;

  /// Gradients by the input and by each parameter. `saved` is of the forward of the same `input` and is used up. `add`,
  /// unless undefined, is added add_scale times to the gradient by the input.
  virtual BranchGradient Backward(const BranchContext& context, const at::Tensor& input,
                                  std::unique_ptr<BranchSaved> saved, const at::Tensor& grad_output,
                                  const at::Tensor& add = {}, double add_scale = 1) const = 0;

  /// The trainable tensors, contiguous, in the order in which parameters.h lists them. They share memory with what the
  /// products read: changing them in place changes the branch.
  virtual const std::vector<at::Tensor>& parameters() const = 0;

  /// Model floating-point operations per token, forward and backward, in sequences of seq_len.
  virtual double FlopsPerToken(int64_t seq_len) const = 0;
};

}  // namespace normlab::trainer
