#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "worker/trainer/model/parameters.h"
#include "worker/trainer/spec.h"

// What the model families differ in, as far as it is data: no torch, nothing allocated. What their branches compute is
// in branch_factory.h.
namespace normlab::trainer {

/// Names are those of Hugging Face's Llama, GPT-2 (GPT2LMHeadModel) and MiniMax models, so that checkpoints need no
/// renaming. Without ".weight" and ".bias".
struct Family {
  std::string_view name;
  std::string_view embedding;
  std::string_view positions;  // Learned positions, added to the embedding; empty: none.
  std::string_view blocks;     // Comes before a block's number, which counts from 0 there.
  std::string_view attention_norm;
  std::string_view ffn_norm;
  std::string_view final_norm;
  std::string_view head;  // Empty: the embedding's matrix is the head's too.
  bool has_layer_norm;    // LayerNorm with a bias instead of RMSNorm.
  // In the order of the branches' parameters(); names behind the block's.
  std::vector<BranchParameter> (*attention)(const ModelSpec& model, int layer);
  std::vector<BranchParameter> (*ffn)(const ModelSpec& model);
};

/// Throws PermanentError for a family that there is not.
const Family& GetFamily(std::string_view name);

/// Whether the attention of block `layer` (1-based) of a minimax model is softmax; else it is lightning.
bool IsSoftmaxLayer(const ModelSpec& model, int layer);

/// num_kv_heads with its default.
int64_t NumKeyValueHeads(const ModelSpec& model);

}  // namespace normlab::trainer
