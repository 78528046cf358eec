#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/norm_scheme.h"
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

/// All parameters in their fixed order: embedding, blocks (attention, feed-forward network, norms), final norm (if
/// any), head.
std::vector<ParameterInfo> ListParameters(const ModelSpec& model, int64_t vocab_size, bool final_norm);

/// Elements of all parameters; of a llama model with a final norm 2 V d + L (4 d^2 + 3 d f + 2 d) + d.
int64_t CountParameters(const ModelSpec& model, int64_t vocab_size, bool final_norm);

}  // namespace normlab::trainer
