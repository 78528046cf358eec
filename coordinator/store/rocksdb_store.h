#pragma once

#include <absl/status/statusor.h>

#include <memory>
#include <string>

#include "coordinator/store/backend.h"
#include "coordinator/store/store.h"

namespace normlab::store {

/// Opens, or creates, the database in `folder`, whose parent must exist. FAILED_PRECONDITION if another process has it
/// open; DATA_LOSS if it is corrupt or incomplete, naming the file; RESOURCE_EXHAUSTED with the free bytes if the disk
/// is full.
absl::StatusOr<std::unique_ptr<Backend>> OpenRocksDbBackend(const std::string& folder);

/// A store over OpenRocksDbBackend. FAILED_PRECONDITION also if a newer version has written it.
absl::StatusOr<std::unique_ptr<Store>> OpenRocksDbStore(const std::string& folder);

}  // namespace normlab::store
