#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "worker/trainer/model/block.h"

// nGPT (arXiv:2410.01131; NVIDIA/ngpt: model.py, train.py): no norms with gains, but vectors of length 1 everywhere.
// With u(v) = v / |v| over hidden:
//   x <- u( u(x) + |e_A| (u(A(x)) - u(x)) ),  then the same with F and e_M.
// A: query and key after the rotation are u(.) of each head times s_qk, and the scores are times sqrt(head_dim). F:
// gate and up are times s_uv sqrt(hidden). Logits are times s_z. A learned scale that starts at v is stored as v / c so
// that Adam's step on it is c times as large: e = stored * 0.05 sqrt(hidden), s_qk and s_z = stored * sqrt(hidden).
namespace normlab::trainer {

/// One block. Made of plain differentiable tensor operations: it is the one scheme without a fused node.
struct NgptBlock {
  std::shared_ptr<const Block> block;  // For its branches' matrices.
  at::Tensor attention_alpha;          // [hidden], all trainable and as stored
  at::Tensor ffn_alpha;                // [hidden]
  at::Tensor query_key_scale;          // [hidden]
  at::Tensor up_gate_scale;            // [2 * ffn_hidden]: of up, then of gate

  /// In the order of NgptScales.
  std::vector<at::Tensor> Scales() const { return {attention_alpha, ffn_alpha, query_key_scale, up_gate_scale}; }
};

/// With all scales where they start.
NgptBlock MakeNgptBlock(std::shared_ptr<const Block> block, int64_t hidden, int64_t ffn_hidden,
                        at::TensorOptions options);

/// alpha of a branch as it works, [hidden], from the parameter as it is stored.
at::Tensor NgptStepSize(const at::Tensor& stored);

/// x: [tokens, hidden], whole sequences one after another. `stats`, unless null, is filled.
at::Tensor ApplyNgptBlock(const NgptBlock& block, const BranchContext& context, const at::Tensor& x,
                          const at::Tensor& counted, BlockStats* stats);

/// [vocab], as stored and trainable, for the scale of the logits; and that scale.
at::Tensor MakeLogitScale(int64_t vocab_size, int64_t hidden, at::TensorOptions options);
at::Tensor LogitScale(const at::Tensor& stored, int64_t hidden);

/// Gives each matrix of the block rows of length 1 along hidden (columns, for the two output projections). For the
/// first weights and after each update.
void NormalizeMatrices(const NgptBlock& block);

/// Gives each row length 1: for the embedding and the head.
void NormalizeRows(const at::Tensor& matrix);

}  // namespace normlab::trainer
