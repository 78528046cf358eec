#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "common/norm_scheme.h"
#include "worker/trainer/model/branch.h"
#include "worker/trainer/model/norm.h"

namespace normlab::trainer {

/// A branch with its norms around the residual: what common/norm_scheme.h says of a sublayer, with tensors.
struct Sublayer {
  SublayerPlan plan;
  std::optional<Norm> input_norm;
  std::optional<Norm> sum_norm;
  std::shared_ptr<const Branch> branch;
};

/// One decoder block of any scheme.
struct Block {
  std::array<Sublayer, 2> sublayers;  // Attention, then the feed-forward network.

  // What autograd knows as trainable: parameters of both branches, then of the norms of both sublayers.
  std::vector<at::Tensor> parameters;
};

/// Means over tokens, as defined in LayerStats of trainer_event.proto.
struct BlockStats {
  double output_variance = 0;
  double output_mean_square = 0;
  double attention_mean_square = 0;
  double ffn_mean_square = 0;
  std::optional<double> dropped_ratio;  // Of blocks with a mixture of experts.
};

struct BlockOutput {
  at::Tensor x;               // [tokens, hidden]
  at::Tensor auxiliary_loss;  // A scalar; undefined if no branch has one.
};

/// x: [tokens, hidden], whole sequences one after another. Records one autograd node per block where gradients are
/// wanted; that node can run once. `stats`, unless null, is filled.
BlockOutput ApplyBlock(const std::shared_ptr<const Block>& block, const BranchContext& context, const at::Tensor& x,
                       BlockStats* stats);

}  // namespace normlab::trainer
