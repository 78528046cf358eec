#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/status/statusor.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "coordinator/store/backend.h"
#include "coordinator/store/store.h"

namespace normlab::store {

/// What a memory store keeps; it outlives the store, as a disk outlives a process. Safe to use from any thread.
struct MemoryDisk {
  std::mutex mutex;
  std::array<std::map<std::string, std::string>, kNumTables> tables ABSL_GUARDED_BY(mutex);
};

/// Tables in memory, for tests and simulations.
std::unique_ptr<Backend> MakeMemoryBackend(std::shared_ptr<MemoryDisk> disk);

/// A store over MakeMemoryBackend. Fails only as the RocksDB store does: FAILED_PRECONDITION for a newer schema.
absl::StatusOr<std::unique_ptr<Store>> OpenMemoryStore(std::shared_ptr<MemoryDisk> disk);

}  // namespace normlab::store
