#pragma once

#include <absl/status/statusor.h>

#include <memory>

#include "coordinator/store/backend.h"
#include "coordinator/store/store.h"

namespace normlab::store {

/// Log lines that are kept per run; between once and 1.1 times as many are stored.
inline constexpr uint64_t kLogLinesMax = 10'000;

/// The store over any backend: it alone knows keys and values. FAILED_PRECONDITION if what the backend holds was
/// written by a newer version; DATA_LOSS if its meta record cannot be read.
absl::StatusOr<std::unique_ptr<Store>> OpenRecordStore(std::unique_ptr<Backend> backend);

}  // namespace normlab::store
