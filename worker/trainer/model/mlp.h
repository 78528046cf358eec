#pragma once

#include <cstdint>

#include "worker/trainer/model/branch.h"

namespace normlab::trainer {

/// SwiGLU network: down(silu(gate(x)) * up(x)) (arXiv:2002.05202); no biases. Parameters: gate and up [ffn_hidden,
/// hidden], down [hidden, ffn_hidden].
class SwiGluBranch final : public Branch {
 public:
  SwiGluBranch(int64_t hidden, int64_t ffn_hidden, at::TensorOptions options);

  at::Tensor Forward(const BranchContext& context, const at::Tensor& input,
                     std::unique_ptr<BranchSaved>* saved) const override;
  BranchGradient Backward(const BranchContext& context, const at::Tensor& input, std::unique_ptr<BranchSaved> saved,
                          const at::Tensor& grad_output, const at::Tensor& add, double add_scale) const override;
  const std::vector<at::Tensor>& parameters() const override { return parameters_; }
  /// 6 per weight.
  double FlopsPerToken(int64_t seq_len) const override;

 private:
  at::Tensor gate_up_;  // [2 * ffn_hidden, hidden]: gate above up, so that they are one product.
  at::Tensor down_;     // [hidden, ffn_hidden]
  std::vector<at::Tensor> parameters_;
};

}  // namespace normlab::trainer
