#pragma once

#include <cstdint>

#include "worker/trainer/model/branch.h"

namespace normlab::trainer {

/// Angles for a rotation of half of each head, as in the softmax blocks of MiniMax-01 (arXiv:2501.08313): of the
/// head_dim / 2 pairs (i, i + head_dim / 2) the first head_dim / 4 rotate, with frequencies base^(-2 i / (head_dim /
/// 2)). The released model rotates columns i and i + head_dim / 4 of the head's first half: the same function, with the
/// rows of each head's query and key in another order.
RotaryTable MakeHalfRotaryTable(int64_t seq, int64_t head_dim, double base, at::TensorOptions options);

/// Causal softmax attention with grouped queries (arXiv:2305.13245): num_heads / num_kv_heads query heads in a row
/// share one key and value head. No biases; rotated as the context says. Parameters: query [hidden, hidden], key and
/// value [num_kv_heads * head_dim, hidden], output [hidden, hidden].
class GqaAttentionBranch final : public Branch {
 public:
  GqaAttentionBranch(int64_t hidden, int64_t num_heads, int64_t num_kv_heads, at::TensorOptions options);

  at::Tensor Forward(const BranchContext& context, const at::Tensor& input,
                     std::unique_ptr<BranchSaved>* saved) const override;
  BranchGradient Backward(const BranchContext& context, const at::Tensor& input, std::unique_ptr<BranchSaved> saved,
                          const at::Tensor& grad_output, const at::Tensor& add, double add_scale) const override;
  const std::vector<at::Tensor>& parameters() const override { return parameters_; }
  /// 6 per weight, plus 12 per column and position as in AttentionBranch.
  double FlopsPerToken(int64_t seq_len) const override;

 private:
  int64_t num_heads_;
  int64_t num_kv_heads_;
  at::Tensor qkv_;     // [hidden + 2 * num_kv_heads * head_dim, hidden]
  at::Tensor output_;  // [hidden, hidden]
  std::vector<at::Tensor> parameters_;
};

}  // namespace normlab::trainer
