#pragma once

#include <cstdint>

#include "worker/trainer/model/branch.h"
#include "worker/trainer/model/lightning_attention.h"
#include "worker/trainer/model/norm.h"

namespace normlab::trainer {

/// Lightning attention as MiniMax-01 has it (arXiv:2501.08313 and its released model):
///
///   [q, k, v] = silu(W_qkv x),   o: lightning_attention.h,   out = W_o (sigmoid(W_g x) * N(o))
///
/// with N an RMSNorm over all heads at once. No positions: the decay orders the tokens. Parameters: query, key, value,
/// gate, output, each [hidden, hidden], and N's gain [hidden].
class LightningBranch final : public Branch {
 public:
  struct Shape {
    int64_t hidden;
    int64_t num_heads;
    int layer0;  // Of all blocks, from 0.
    int num_layers;
    double norm_eps;
  };

  LightningBranch(const Shape& shape, at::TensorOptions options);

  at::Tensor Forward(const BranchContext& context, const at::Tensor& input,
                     std::unique_ptr<BranchSaved>* saved) const override;
  BranchGradient Backward(const BranchContext& context, const at::Tensor& input, std::unique_ptr<BranchSaved> saved,
                          const at::Tensor& grad_output, const at::Tensor& add, double add_scale) const override;
  const std::vector<at::Tensor>& parameters() const override { return parameters_; }
  /// 6 per weight, plus 12 per column and row of a head's state (the recurrent form; chunks do somewhat more).
  double FlopsPerToken(int64_t seq_len) const override;

 private:
  int64_t num_heads_;
  LightningDecay decay_;
  Norm norm_;
  at::Tensor
      input_;  // [4 * hidden, hidden]: query, key, value and gate one under another, so that they are one product.
  at::Tensor output_;  // [hidden, hidden]
  std::vector<at::Tensor> parameters_;
};

}  // namespace normlab::trainer
