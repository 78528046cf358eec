#pragma once

#include <cstdint>

#include "worker/trainer/model/branch.h"

namespace normlab::trainer {

/// GPT-2's feed-forward network: gelu(x W_1 + b_1) W_2 + b_2, with the tanh form of GELU (arXiv:1606.08415, section 2).
/// Weights lie as in Hugging Face's Conv1D, input first. Parameters: W_1 [hidden, ffn_hidden], b_1 [ffn_hidden], W_2
/// [ffn_hidden, hidden], b_2 [hidden].
class GeluMlpBranch final : public Branch {
 public:
  GeluMlpBranch(int64_t hidden, int64_t ffn_hidden, at::TensorOptions options);

  at::Tensor Forward(const BranchContext& context, const at::Tensor& input,
                     std::unique_ptr<BranchSaved>* saved) const override;
  BranchGradient Backward(const BranchContext& context, const at::Tensor& input, std::unique_ptr<BranchSaved> saved,
                          const at::Tensor& grad_output, const at::Tensor& add, double add_scale) const override;
  const std::vector<at::Tensor>& parameters() const override { return parameters_; }
  /// 6 per weight.
  double FlopsPerToken(int64_t seq_len) const override;

 private:
  at::Tensor up_, up_bias_, down_, down_bias_;
  std::vector<at::Tensor> parameters_;
};

}  // namespace normlab::trainer
