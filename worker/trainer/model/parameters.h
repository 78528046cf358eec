#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/norm_scheme.h"
#include "worker/trainer/spec.h"

// The trainable tensors of a model as data: no torch, nothing allocated.
namespace normlab::trainer {

struct ParameterInfo {
  std::string name;                   // Hugging Face's Llama name.
  std::vector<int64_t> shape;         // [out, in] or [hidden]
  int layer;                          // 1-based block; 0 outside of blocks.
  std::optional<BlockMatrix> matrix;  // For the matrices of blocks.

  int64_t NumElements() const;
};

/// One parameter of a branch: its name behind "model.layers.N.", and what a scheme may start differently.
struct BranchParameter {
  std::string name;
  std::vector<int64_t> shape;
  std::optional<BlockMatrix> matrix;
};

/// Throws PermanentError, with the numbers, for a shape that cannot be built.
void CheckModelSpec(const ModelSpec& model, int64_t vocab_size);

/// In the order of the branches' parameters().
std::vector<BranchParameter> AttentionParameters(const ModelSpec& model);
std::vector<BranchParameter> SwiGluParameters(const ModelSpec& model);

/// All parameters in their fixed order: embedding, blocks (attention, feed-forward network, norms), final norm (if
/// any), head.
std::vector<ParameterInfo> ListParameters(const ModelSpec& model, int64_t vocab_size, bool final_norm);

/// Elements of all parameters; 2 V d + L (4 d^2 + 3 d f + 2 d) + d with a final norm.
int64_t CountParameters(const ModelSpec& model, int64_t vocab_size, bool final_norm);

}  // namespace normlab::trainer
