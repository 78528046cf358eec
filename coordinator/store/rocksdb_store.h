#pragma once

#include <absl/status/statusor.h>

#include <memory>
#include <string>

#include "coordinator/store/backend.h"
#include "coordinator/store/store.h"

namespace rocksdb {
class Env;
}

namespace normlab::store {

struct RocksDbOptions {
  rocksdb::Env* env = nullptr;  // The disk; null: the real one. Must outlive the backend.
  bool is_read_only = false;    // Reads what is there and changes no file; two may have it open.
};

/// Opens, or creates, the database in `folder`, whose parent must exist. FAILED_PRECONDITION if another process has it
/// open; DATA_LOSS if it is corrupt or incomplete, naming the file; RESOURCE_EXHAUSTED with the free bytes if the disk
/// is full.
///
/// After a Write that failed every later one is refused: once a sync has failed, the kernel may have dropped what it
/// could not write and call the next sync a success.
absl::StatusOr<std::unique_ptr<Backend>> OpenRocksDbBackend(const std::string& folder,
                                                            const RocksDbOptions& options = {});

/// A store over OpenRocksDbBackend. FAILED_PRECONDITION also if a newer version has written it.
absl::StatusOr<std::unique_ptr<Store>> OpenRocksDbStore(const std::string& folder, const RocksDbOptions& options = {});

}  // namespace normlab::store
