#pragma once

#include <memory>

#include "common/norm_plan.h"
#include "worker/trainer/model/branch.h"
#include "worker/trainer/spec.h"

// What the branches of each family compute. Parameters are in the order of families.h, norm gains are 1 and biases 0;
// matrices are not filled.
namespace normlab::trainer {

/// Attention of block `layer` (1-based, of all blocks of the model). `norms` are for family llama alone.
std::shared_ptr<const Branch> MakeAttention(const ModelSpec& model, const QkvNorms& norms, int layer,
                                            at::TensorOptions options);

std::shared_ptr<const Branch> MakeFfn(const ModelSpec& model, at::TensorOptions options);

/// What the family's branches need to know of sequences of `seq` tokens.
BranchContext MakeBranchContext(const ModelSpec& model, int64_t seq, at::TensorOptions options);

}  // namespace normlab::trainer
