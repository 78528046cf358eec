#pragma once

#include <cstdint>

namespace normlab::trainer {

/// Stands where a position has no target (padding, a prompt): the loss and its mean leave the position out. The value
/// is that of PyTorch's ignore_index.
inline constexpr int64_t kIgnoredTarget = -100;

}  // namespace normlab::trainer
