#pragma once

#include <c10/util/intrusive_ptr.h>

#include <cstdint>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

// How the trainer, which knows no CUDA header, gets c10d's NCCL backend from libnormlab_cuda.so.
namespace normlab::trainer {

/// The caller owns the result: c10::intrusive_ptr<c10d::Backend>::reclaim. Throws what c10d throws.
using MakeNccl = c10d::Backend*(const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size,
                                int64_t timeout_seconds);

/// Its name in the library, for dlsym.
inline constexpr char kMakeNccl[] = "NormlabMakeNccl";

}  // namespace normlab::trainer
