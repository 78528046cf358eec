#pragma once

#include <cstdint>
#include <vector>

#include "worker/trainer/diagnostics/stack.h"

namespace normlab::trainer {

struct JacobianOptions {
  int tokens = 64;  // Probed tokens, at least one of each sequence.
  int probes = 4;   // Random directions at each token.
  uint64_t seed = 0;
};

/// Over tokens. A rare token, whose embedding is small, may be far above all others: the mean is often its value alone.
struct IdentityDistance {
  double mean;
  double median;
};

/// How far each block is from the identity at each token: I_l = E_v |J_l v - v|^2 / |v|^2 with J_l the Jacobian of
/// block l's output at a token by its input at the same token and v Gaussian; that is |J_l - 1|_F^2 / d. 0 for a block
/// that does nothing (arXiv:2502.05795, fig. 5, shows the matrix). Estimated after Hutchinson with vector-Jacobian
/// products: J^T v in the place of J v, which has the same expectation. Tokens are drawn from `seed`, none twice as
/// long as there are others.
std::vector<IdentityDistance> JacobianIdentityDistances(const BlockStack& stack, const ProbeBatch& batch,
                                                        const JacobianOptions& options);

}  // namespace normlab::trainer
