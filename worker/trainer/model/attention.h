#pragma once

#include <cstdint>

#include "common/norm_plan.h"
#include "worker/trainer/model/branch.h"
#include "worker/trainer/model/qkv_norm.h"

namespace normlab::trainer {

/// Causal multi-head self-attention over the whole width with rotary positions and its output projection; no biases.
/// Parameters: query, key, value, output, each [hidden, hidden]; then the gains of the norms on query, key and value
/// that there are.
class AttentionBranch final : public Branch {
 public:
  AttentionBranch(int64_t hidden, int64_t num_heads, at::TensorOptions options, const QkvNorms& norms = {},
                  double norm_eps = 0);

  at::Tensor Forward(const BranchContext& context, const at::Tensor& input,
                     std::unique_ptr<BranchSaved>* saved) const override;
  BranchGradient Backward(const BranchContext& context, const at::Tensor& input, std::unique_ptr<BranchSaved> saved,
                          const at::Tensor& grad_output, const at::Tensor& add, double add_scale) const override;
  const std::vector<at::Tensor>& parameters() const override { return parameters_; }
  /// 6 per weight, plus 12 per column and position: the causal half is not subtracted (arXiv:2204.02311, appendix B).
  double FlopsPerToken(int64_t seq_len) const override;

 private:
  int64_t num_heads_;
  at::Tensor qkv_;     // [3 * hidden, hidden]: query, key and value one under another, so that they are one product.
  at::Tensor output_;  // [hidden, hidden]
  QkvNorm norm_;
  std::vector<at::Tensor> parameters_;
};

}  // namespace normlab::trainer
