#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "common/norm_plan.h"
#include "worker/trainer/model/branch.h"
#include "worker/trainer/model/norm.h"

namespace normlab::trainer {

/// A branch with its norms around the residual: a SublayerPlan with tensors.
struct Sublayer {
  SublayerPlan plan;
  std::optional<Norm> input_norm;
  std::optional<Norm> branch_norm;
  std::optional<Norm> sum_norm;
  at::Tensor branch_scale;  // Learned: [1] or [hidden]. Undefined: the plan's constant.
  std::shared_ptr<const Branch> branch;
};

/// One decoder block of any scheme but nGPT.
struct Block {
  std::array<Sublayer, 2> sublayers;  // Attention, then the feed-forward network.
  at::Tensor gate;                    // GPAS's a, [1]; undefined without.
  bool rounds_stream = false;         // To bfloat16, after each residual sum.

  // What autograd knows as trainable: parameters of both branches; then, for each sublayer, of its norms (input,
  // branch, sum) and its branch_scale; then the gate.
  std::vector<at::Tensor> parameters;
};

/// What one block did in one forward, as defined in LayerStats of trainer_event.proto.
struct BlockStats {
  TokenStats output;
  TokenStats attention;  // Of what attention adds to the stream.
  TokenStats ffn;
  std::optional<double> dropped_ratio;  // Of blocks with a mixture of experts.
};

struct BlockOutput {
  at::Tensor x;               // [tokens, hidden]
  at::Tensor auxiliary_loss;  // A scalar; undefined if no branch has one.
};

/// x: [tokens, hidden], whole sequences one after another. Records one autograd node per block where gradients are
/// wanted; that node can run once. `stats`, unless null, is filled from the tokens that count (SublayerStats).
BlockOutput ApplyBlock(const std::shared_ptr<const Block>& block, const BranchContext& context, const at::Tensor& x,
                       const at::Tensor& counted, BlockStats* stats);

}  // namespace normlab::trainer
