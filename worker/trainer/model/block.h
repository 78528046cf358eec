#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>

#include "common/norm_scheme.h"
#include "worker/trainer/model/attention.h"
#include "worker/trainer/model/mlp.h"
#include "worker/trainer/model/norm.h"

namespace normlab::trainer {

/// One decoder block of any scheme. Its weights are stored as the products want them (query, key and value in one
/// matrix), and the trainable tensors are views of that storage: changing those in place changes these.
struct Block {
  BlockPlan plan;
  Norm attention_norm;
  Norm ffn_norm;
  AttentionWeights attention;
  MlpWeights mlp;

  // What autograd knows as trainable, in the order of BlockMatrix, then the gains of attention_norm and ffn_norm.
  std::array<at::Tensor, kNumBlockMatrices + 2> parameters;
};

/// Means over tokens, as defined in LayerStats of trainer_event.proto.
struct BlockStats {
  double output_variance = 0;
  double output_mean_square = 0;
  double attention_mean_square = 0;
  double ffn_mean_square = 0;
};

/// x: [tokens, hidden], whole sequences one after another; the same shape comes back. Records one autograd node per
/// block where gradients are wanted; that node can run once. `stats`, unless null, is filled.
at::Tensor ApplyBlock(const std::shared_ptr<const Block>& block, const RotaryTable& rotary, const at::Tensor& x,
                      BlockStats* stats);

}  // namespace normlab::trainer
