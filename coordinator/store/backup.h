#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "coordinator/store/store.h"
#include "normlab/v1/storage.pb.h"

// A backup is a folder:
//
//   ROOT/backup-20261124T135612.345Z/db/*          a RocksDB database
//                                   /tokens.json   if there are tokens
//                                   /backup.json   BackupManifest, written last
//
// It is made beside, as ROOT/.partial-NAME, and renamed once everything in it is on the disk: what has no dot in front
// is whole. Its files are copies, not links: damage to the database's own files does not reach it.
namespace normlab::store {

/// Told how far a backup, check or restore is; false ends it with CANCELLED.
using OnProgress = std::function<bool(uint64_t bytes_done, uint64_t bytes_total)>;

inline constexpr char kDatabaseFolder[] = "db";  // Below the data folder, and in a backup.
inline constexpr char kTokensFile[] = "tokens.json";

/// The backups of one coordinator. Any thread.
class Backups {
 public:
  /// Those below `root`, which is made when it is needed, of the coordinator whose data folder is `data_folder`. The
  /// newest `num_kept` stay.
  Backups(std::filesystem::path root, std::filesystem::path data_folder, int num_kept);

  /// Makes one. Holds everything that `store` had committed before the call. FAILED_PRECONDITION while another one is
  /// made; RESOURCE_EXHAUSTED if the disk is full; DATA_LOSS if what was copied cannot be read.
  absl::StatusOr<v1::BackupManifest> Create(Store& store, absl::Time now, const OnProgress& on_progress);

  /// The whole ones, the newest first.
  absl::StatusOr<std::vector<v1::BackupManifest>> List() const;

  /// NOT_FOUND if there is none of that name; else as VerifyBackup.
  absl::StatusOr<v1::BackupManifest> Verify(const std::string& name, const OnProgress& on_progress) const;

  std::filesystem::path PathOf(const std::string& name) const { return root_ / name; }

 private:
  /// Appends the manifests of all that are whole. Throws for a root that cannot be read.
  void ReadAll(std::vector<v1::BackupManifest>& found) const;
  absl::Status Fill(Store& store, const std::filesystem::path& partial, v1::BackupManifest& manifest,
                    const OnProgress& on_progress) const;
  absl::Status RemoveOldest() const;

  const std::filesystem::path root_;
  const std::filesystem::path data_folder_;
  const int num_kept_;
  std::mutex making_;
};

/// Reads every file of the backup in `folder`, compares sizes and hashes, and opens the database. FAILED_PRECONDITION
/// if the folder is no backup or of a newer version; DATA_LOSS naming the file that is damaged, missing or too many.
absl::StatusOr<v1::BackupManifest> VerifyBackup(const std::filesystem::path& folder, const OnProgress& on_progress);

struct Restored {
  v1::BackupManifest manifest;
  int64_t first_experiment = 0;  // Numbers that the restored coordinator goes on with.
  int32_t first_attempt = 0;
  bool has_tokens = false;  // tokens.json was put back, too.
};

/// Makes the database of `data_folder` from the backup in `folder`, all of it or nothing. Refuses with
/// FAILED_PRECONDITION if there is a database already, in use or not.
///
/// After the backup the lost store went on: it gave out numbers of attempts, which workers may still hold, and of
/// experiments, whose checkpoints still lie in the checkpoint root. None may be given out again. How far it came nobody
/// knows, but numbers are given out more slowly than seconds pass: those of the restored store go on from the seconds
/// since the beginning of 2025, and revisions from the microseconds.
absl::StatusOr<Restored> RestoreBackup(const std::filesystem::path& folder, const std::filesystem::path& data_folder,
                                       absl::Time now, const OnProgress& on_progress);

}  // namespace normlab::store
