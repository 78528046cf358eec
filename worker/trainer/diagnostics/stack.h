#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace normlab::trainer {

/// A model as the analyses see it: an embedding, L blocks one behind another, a loss. Every x is [tokens, hidden],
/// whole sequences of seq_len one after another; layers are 1-based. A block keeps its own l whatever stands before it.
struct BlockStack {
  int num_layers;
  std::function<at::Tensor(const at::Tensor& inputs)> embed;  // int64 [batch, seq] to x_1
  std::function<at::Tensor(int layer, const at::Tensor& x, int64_t seq_len)> run_block;
  /// Mean loss over the positions that have a target; 0 if there is none.
  std::function<at::Tensor(const at::Tensor& x, const at::Tensor& targets)> loss;
};

/// Some sequences. A position without a target (padding) has kIgnoredTarget.
struct ProbeBatch {
  at::Tensor inputs;   // int64 [batch, seq]
  at::Tensor targets;  // int64 [batch, seq]

  int64_t seq_len() const { return inputs.size(1); }
  /// bool [tokens]: the positions that have a target. Only these are measured.
  at::Tensor HasTarget() const;
  /// bool [tokens]: the first position of each sequence, if it has a target.
  at::Tensor IsFirst() const;
  /// bool [tokens]: the last position with a target of each sequence that has one.
  at::Tensor IsLast() const;
};

/// The rows of x where `mask` (bool, one per row) is true.
at::Tensor RowsWhere(const at::Tensor& x, const at::Tensor& mask);

/// x_1 (the embedding) to x_{L+1} (behind the last block), without gradient.
std::vector<at::Tensor> StreamStates(const BlockStack& stack, const ProbeBatch& batch);

}  // namespace normlab::trainer
