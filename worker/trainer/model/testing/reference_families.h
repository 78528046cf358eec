#pragma once

#include <ATen/core/Tensor.h>

#include "worker/trainer/model/testing/reference_model.h"
#include "worker/trainer/spec.h"

namespace normlab::trainer::testing {

struct FamilyResult {
  at::Tensor loss;       // Cross entropy.
  at::Tensor objective;  // With the balance losses.
  at::Tensor logits;
};

/// The families gpt2 and minimax again, from the equations, as reference_model.h says; for the schemes pre_ln, lns,
/// post_ln and deepnorm (any other: pre_ln).
FamilyResult RunGpt2(const ModelSpec& model, const NormSpec& norm, const Weights& weights, const at::Tensor& inputs,
                     const at::Tensor& targets);
FamilyResult RunMiniMax(const ModelSpec& model, const NormSpec& norm, const Weights& weights, const at::Tensor& inputs,
                        const at::Tensor& targets);

}  // namespace normlab::trainer::testing
