#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/norm_plan.h"
#include "worker/trainer/spec.h"

// The trainable tensors of a model as data: no torch, nothing allocated.
namespace normlab::trainer {

struct ParameterInfo {
  std::string name;                   // Hugging Face's name.
  std::vector<int64_t> shape;         // [out, in] (or [in, out]) or [hidden]
  int layer;                          // 1-based block; 0 outside of blocks.
  std::vector<BlockMatrix> matrices;  // As in BranchParameter.
  bool is_input_first = false;        // Likewise.
  bool is_embedding = false;          // Looked up by token or position: no products, no decay, a deviation of its own.

  int64_t NumElements() const;
};

/// One parameter of a branch.
struct BranchParameter {
  std::string name;            // Behind the block's.
  std::vector<int64_t> shape;  // [out, in] or [size]
  // What a scheme may start differently: the matrices that lie in equal parts along the output; empty for vectors.
  std::vector<BlockMatrix> matrices = {};
  bool is_input_first = false;  // [in, out] instead.
};

/// Throws PermanentError, with the numbers, for a shape that cannot be built.
void CheckModelSpec(const ModelSpec& model, int64_t vocab_size);

/// The plans of all blocks, first block first. Throws PermanentError for norms that the model cannot have.
std::vector<BlockPlan> PlanBlocks(const ModelSpec& model, const NormSpec& norm);

/// The gains of the norms inside attention.
std::vector<BranchParameter> QkvNormParameters(const ModelSpec& model, const QkvNorms& norms);

/// All parameters in their fixed order: embedding and its scale and norm (if any); per block attention, feed-forward
/// network, norms and scale of each sublayer, gate; final norm (if any), head. Throws as PlanBlocks.
std::vector<ParameterInfo> ListParameters(const ModelSpec& model, int64_t vocab_size, const NormSpec& norm);

/// Elements of all parameters; of a llama model under pre_ln with a final norm 2 V d + L (4 d^2 + 3 d f + 2 d) + d.
int64_t CountParameters(const ModelSpec& model, int64_t vocab_size, const NormSpec& norm);

}  // namespace normlab::trainer
