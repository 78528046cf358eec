#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

namespace normlab::trainer {

/// Overwrites `tensor` with Normal(0, std). The draws depend on seed, name and shape alone, not on std, on the type of
/// the elements or on what else was drawn.
void FillNormal(const at::Tensor& tensor, double std, uint64_t seed, std::string_view name);

/// As FillNormal, with draws beyond 3 deviations drawn again.
void FillTruncatedNormal(const at::Tensor& tensor, double std, uint64_t seed, std::string_view name);

}  // namespace normlab::trainer
