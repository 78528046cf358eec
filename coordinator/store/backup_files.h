#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "coordinator/store/backup.h"
#include "normlab/v1/storage.pb.h"

// Copying and checking the files of backups.
namespace normlab::store {

/// Counts bytes over several files.
class ProgressCount {
 public:
  ProgressCount(const OnProgress& on_progress, uint64_t bytes_total) : on_progress_(on_progress), total_(bytes_total) {}
  /// CANCELLED if whoever is told does not want more.
  absl::Status Add(uint64_t bytes);

 private:
  const OnProgress& on_progress_;
  const uint64_t total_;
  uint64_t done_ = 0;
};

/// SHA-256 (hex) and size of the file, which is copied durably to `to` on the way unless that is empty. The folder of
/// `to` is not synced.
absl::StatusOr<v1::BackupManifest::File> ReadFileForBackup(const std::filesystem::path& from,
                                                           const std::filesystem::path& to, ProgressCount& progress);

/// Paths of all plain files below `folder`, relative to it, in order.
absl::StatusOr<std::vector<std::string>> FilesBelow(const std::filesystem::path& folder);

/// Checks the files of a backup against its manifest, copying them to `to` unless it is empty: DATA_LOSS names what is
/// damaged, missing or too many.
absl::Status CheckFiles(const std::filesystem::path& folder, const v1::BackupManifest& manifest,
                        const std::filesystem::path& to, const OnProgress& on_progress);

/// FAILED_PRECONDITION if `folder` holds no backup.json that can be read.
absl::StatusOr<v1::BackupManifest> ReadManifest(const std::filesystem::path& folder);
absl::Status WriteManifest(const std::filesystem::path& folder, const v1::BackupManifest& manifest);

/// Runs what throws FileError or std::filesystem's errors: RESOURCE_EXHAUSTED if the disk is full, else INTERNAL.
absl::Status Guarded(const std::function<absl::Status()>& work);

}  // namespace normlab::store
