#pragma once

#include <cstdint>

#include "worker/trainer/model/branch.h"

namespace normlab::trainer {

/// Angles that rotate nothing, for models whose positions are in the stream.
RotaryTable MakeIdentityRotaryTable(int64_t seq, int64_t head_dim, at::TensorOptions options);

/// GPT-2's causal multi-head attention: projections with biases. Weights lie as in Hugging Face's Conv1D, input first.
/// Parameters: query, key and value side by side [hidden, 3 * hidden], their bias [3 * hidden], output [hidden,
/// hidden], its bias [hidden].
class BiasedAttentionBranch final : public Branch {
 public:
  BiasedAttentionBranch(int64_t hidden, int64_t num_heads, at::TensorOptions options);

  at::Tensor Forward(const BranchContext& context, const at::Tensor& input,
                     std::unique_ptr<BranchSaved>* saved) const override;
  BranchGradient Backward(const BranchContext& context, const at::Tensor& input, std::unique_ptr<BranchSaved> saved,
                          const at::Tensor& grad_output, const at::Tensor& add, double add_scale) const override;
  const std::vector<at::Tensor>& parameters() const override { return parameters_; }
  /// 6 per weight, plus 12 per column and position as in AttentionBranch.
  double FlopsPerToken(int64_t seq_len) const override;

 private:
  int64_t num_heads_;
  at::Tensor qkv_, qkv_bias_, output_, output_bias_;
  std::vector<at::Tensor> parameters_;
};

}  // namespace normlab::trainer
