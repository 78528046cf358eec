#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "worker/trainer/model/branch.h"

namespace normlab::trainer::testing {

/// What a branch should compute, written with plain differentiable operations.
struct BranchFormula {
  at::Tensor output;
  at::Tensor auxiliary_loss;  // Undefined where there is none.
};
using Formula = std::function<BranchFormula(const at::Tensor& input, const std::vector<at::Tensor>& parameters)>;

/// Fills the parameters of `branch` and an input [tokens, hidden] with numbers from `seed` and expects output,
/// auxiliary loss and all gradients (with an addend to that by the input) to be those of `formula` in float64, to
/// `tolerance` relative to their norms. Parameters of one dimension are drawn around 1, the others with deviation
/// `std`.
void ExpectBranchEquals(const Branch& branch, const BranchContext& context, int64_t tokens, int64_t hidden,
                        const Formula& formula, double tolerance, uint64_t seed = 1, double std = 0.5);

/// Normal numbers that both float32 and float64 hold.
at::Tensor Random(at::IntArrayRef shape, uint64_t seed, double std = 1);

}  // namespace normlab::trainer::testing
