#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "worker/trainer/spec.h"

// The model again, written from the papers' equations with plain float64 tensor operations and PyTorch's own gradients.
// It shares no code and no table with the model under test.
namespace normlab::trainer::testing {

/// Weights by Hugging Face name, float64; those that require gradients get them from Loss(...).backward().
using Weights = std::map<std::string, at::Tensor>;

struct ReferenceResult {
  at::Tensor loss;
  at::Tensor logits;  // [batch, seq, vocab]
  // [layers, 8]: of the output variance, its median, mean square, largest; then variance and mean square of attention's
  // and of the FFN's part.
  at::Tensor layer_stats;
};

ReferenceResult RunReference(const ModelSpec& model, const NormSpec& norm, const Weights& weights,
                             const at::Tensor& inputs, const at::Tensor& targets);

}  // namespace normlab::trainer::testing
