#include "coordinator/store/backup.h"

#include <absl/strings/match.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/durable_file.h"
#include "common/log.h"
#include "common/status.h"
#include "common/version.h"
#include "coordinator/store/backup_files.h"
#include "coordinator/store/convert.h"
#include "coordinator/store/keys.h"
#include "coordinator/store/rocksdb_store.h"

namespace normlab::store {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = "backup-";
constexpr char kPartialPrefix[] = ".partial-";
constexpr int64_t kMicrosecondsPerSecond = 1'000'000;

v1::StoredMeta ReadMeta(Backend& backend, absl::Status& status) {
  v1::StoredMeta meta;
  status = backend.Scan(Table::kMeta, kMetaKey, kUsagePrefix, [&](std::string_view, std::string_view value) {
    meta.ParseFromArray(value.data(), static_cast<int>(value.size()));
    return true;
  });
  return meta;
}

absl::StatusOr<int64_t> Count(Backend& backend, Table table, absl::FunctionRef<bool(std::string_view key)> counts) {
  int64_t count = 0;
  NORMLAB_RETURN_IF_ERROR(backend.Scan(table, "", "", [&](std::string_view key, std::string_view) {
    count += counts(key);
    return true;
  }));
  return count;
}

/// Opens the database, reads all of it once, and fills in what it holds.
absl::Status Describe(const fs::path& database, v1::BackupManifest& manifest) {
  NORMLAB_ASSIGN_OR_RETURN(const auto backend, OpenRocksDbBackend(database.string(), {.is_read_only = true}));
  // The hashes only say that the copies are as they were made, not that the database's own files were good.
  NORMLAB_RETURN_IF_ERROR(backend->VerifyChecksums());
  absl::Status read;
  const v1::StoredMeta meta = ReadMeta(*backend, read);
  NORMLAB_RETURN_IF_ERROR(read);
  manifest.set_schema_version(meta.schema_version());
  manifest.set_revision(meta.revision());
  NORMLAB_ASSIGN_OR_RETURN(const int64_t num_experiments,
                           Count(*backend, Table::kExperiments, [](std::string_view) { return true; }));
  NORMLAB_ASSIGN_OR_RETURN(const int64_t num_runs,
                           Count(*backend, Table::kRuns, [](std::string_view key) { return key.back() == '\0'; }));
  manifest.set_num_experiments(num_experiments);
  manifest.set_num_runs(num_runs);
  return absl::OkStatus();
}

/// Removes what a process left that was killed.
void RemovePartial(const fs::path& root) {
  for (const auto& entry : fs::directory_iterator(root)) {
    if (absl::StartsWith(entry.path().filename().string(), kPartialPrefix)) fs::remove_all(entry.path());
  }
}

/// Who has the database open; 0 if nobody.
pid_t FindUser(const fs::path& database) {
  const int fd = open((database / "LOCK").c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return 0;
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  const bool is_known = fcntl(fd, F_GETLK, &lock) == 0;
  close(fd);
  return is_known && lock.l_type != F_UNLCK ? lock.l_pid : 0;
}

absl::Status CheckNoDatabase(const fs::path& database) {
  if (!fs::exists(database)) return absl::OkStatus();
  if (const pid_t user = FindUser(database); user != 0) {
    return absl::FailedPreconditionError(
        fmt::format("{} is in use by process {}: nothing is restored over a running coordinator; stop it and move the "
                    "folder away, or choose another --data",
                    database.string(), user));
  }
  return absl::FailedPreconditionError(fmt::format(
      "{} is there already: move it away first, or choose another --data; nothing is restored over a database",
      database.string()));
}

/// Raises what the restored store gives out above what the lost one may have given out.
absl::Status RaiseFloors(const fs::path& database, absl::Time now, Restored& restored) {
  const int64_t seconds =
      absl::ToInt64Seconds(now - absl::FromCivil(absl::CivilSecond(2025, 1, 1), absl::UTCTimeZone()));
  NORMLAB_ASSIGN_OR_RETURN(const auto backend, OpenRocksDbBackend(database.string()));
  absl::Status read;
  v1::StoredMeta meta = ReadMeta(*backend, read);
  NORMLAB_RETURN_IF_ERROR(read);
  if (seconds <= meta.attempt_floor()) {
    return absl::FailedPreconditionError(
        fmt::format("this host's clock says {}, and the store has been restored before at a later time: set the clock",
                    absl::FormatTime(now, absl::UTCTimeZone())));
  }
  meta.set_attempt_floor(static_cast<int32_t>(seconds));
  meta.set_last_experiment_number(std::max(meta.last_experiment_number(), seconds));
  meta.set_revision(std::max(meta.revision() + 1, seconds * kMicrosecondsPerSecond));
  meta.set_schema_version(kSchemaVersion);
  restored.first_experiment = meta.last_experiment_number() + 1;
  restored.first_attempt = meta.attempt_floor();
  return backend->Write({{.kind = Mutation::Kind::kPut, .key = kMetaKey, .value = meta.SerializeAsString()}});
}

absl::Status CheckVersion(const v1::BackupManifest& manifest) {
  if (manifest.schema_version() <= kSchemaVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("{} was made by normlab {} (schema version {}, this program reads up to {}): use that version",
                  manifest.name(), manifest.version(), manifest.schema_version(), kSchemaVersion));
}

}  // namespace

Backups::Backups(fs::path root, fs::path data_folder, int num_kept)
    : root_(std::move(root)), data_folder_(std::move(data_folder)), num_kept_(num_kept) {}

absl::Status Backups::Fill(Store& store, const fs::path& partial, v1::BackupManifest& manifest,
                           const OnProgress& on_progress) const {
  // Beside the database, so that RocksDB links its files instead of copying them while it holds them.
  const fs::path checkpoint = data_folder_ / "db.checkpoint";
  fs::remove_all(checkpoint);
  NORMLAB_RETURN_IF_ERROR(store.WriteCheckpoint(checkpoint.string()));
  fs::create_directories(partial / kDatabaseFolder);
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<std::string> names, FilesBelow(checkpoint));
  std::vector<std::pair<fs::path, std::string>> files;
  uint64_t bytes = 0;
  for (const std::string& name : names) {
    files.emplace_back(checkpoint / name, fmt::format("{}/{}", kDatabaseFolder, name));
    bytes += fs::file_size(checkpoint / name);
  }
  if (fs::exists(data_folder_ / kTokensFile)) files.emplace_back(data_folder_ / kTokensFile, kTokensFile);
  ProgressCount progress(on_progress, bytes);
  for (const auto& [from, to] : files) {
    NORMLAB_ASSIGN_OR_RETURN(v1::BackupManifest::File file, ReadFileForBackup(from, partial / to, progress));
    file.set_path(to);
    *manifest.add_files() = std::move(file);
  }
  fs::remove_all(checkpoint);
  NORMLAB_RETURN_IF_ERROR(Describe(partial / kDatabaseFolder, manifest));
  SyncFolder(partial / kDatabaseFolder);
  return WriteManifest(partial, manifest);
}

absl::StatusOr<v1::BackupManifest> Backups::Create(Store& store, absl::Time now, const OnProgress& on_progress) {
  const std::unique_lock making(making_, std::try_to_lock);
  if (!making.owns_lock()) {
    return absl::FailedPreconditionError("another backup is being made: wait until it is there");
  }
  v1::BackupManifest manifest;
  manifest.set_name(kPrefix + absl::FormatTime("%Y%m%dT%H%M%E3SZ", now, absl::UTCTimeZone()));
  manifest.set_version(kVersion);
  *manifest.mutable_created_at() = ToTimestamp(now);
  const fs::path partial = root_ / (kPartialPrefix + manifest.name());
  const absl::Status made = Guarded([&] {
    fs::create_directories(root_);
    RemovePartial(root_);
    NORMLAB_RETURN_IF_ERROR(Fill(store, partial, manifest, on_progress));
    RenameDurably(partial, PathOf(manifest.name()));
    return absl::OkStatus();
  });
  if (made.ok()) {
    const absl::Status removed = Guarded([&] { return RemoveOldest(); });
    if (!removed.ok()) {
      spdlog::warn("{} is made, but older backups cannot be removed: {}; remove some of {} by hand", manifest.name(),
                   std::string(removed.message()), root_.string());
    }
    return manifest;
  }
  std::error_code ignored;  // The next backup tries again.
  fs::remove_all(partial, ignored);
  fs::remove_all(data_folder_ / "db.checkpoint", ignored);
  return absl::Status(made.code(),
                      fmt::format("no backup was made below {}: {}", root_.string(), std::string(made.message())));
}

absl::StatusOr<std::vector<v1::BackupManifest>> Backups::List() const {
  std::vector<v1::BackupManifest> found;
  NORMLAB_RETURN_IF_ERROR(Guarded([&] {
    ReadAll(found);
    return absl::OkStatus();
  }));
  // Names are times.
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.name() > b.name(); });
  return found;
}

void Backups::ReadAll(std::vector<v1::BackupManifest>& found) const {
  if (!fs::exists(root_)) return;  // Before the first backup.
  for (const auto& entry : fs::directory_iterator(root_)) {
    if (!absl::StartsWith(entry.path().filename().string(), kPrefix)) continue;
    auto manifest = ReadManifest(entry.path());
    if (manifest.ok()) {
      manifest->set_name(entry.path().filename().string());
      found.push_back(*std::move(manifest));
    } else {
      spdlog::warn("{}", std::string(manifest.status().message()));
    }
  }
}

absl::Status Backups::RemoveOldest() const {
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<v1::BackupManifest> all, List());
  for (size_t i = static_cast<size_t>(num_kept_); i < all.size(); ++i) {
    // Renamed first: half a backup must not look like one.
    const fs::path removed = root_ / (kPartialPrefix + all[i].name());
    RenameDurably(PathOf(all[i].name()), removed);
    fs::remove_all(removed);
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::BackupManifest> Backups::Verify(const std::string& name, const OnProgress& on_progress) const {
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<v1::BackupManifest> all, List());
  if (std::none_of(all.begin(), all.end(), [&](const auto& backup) { return backup.name() == name; })) {
    return absl::NotFoundError(
        fmt::format("there is no backup {} among the {} in {}", name, all.size(), root_.string()));
  }
  return VerifyBackup(PathOf(name), on_progress);
}

absl::StatusOr<v1::BackupManifest> VerifyBackup(const fs::path& folder, const OnProgress& on_progress) {
  NORMLAB_ASSIGN_OR_RETURN(const v1::BackupManifest manifest, ReadManifest(folder));
  NORMLAB_RETURN_IF_ERROR(CheckVersion(manifest));
  NORMLAB_RETURN_IF_ERROR(Guarded([&] { return CheckFiles(folder, manifest, "", on_progress); }));
  v1::BackupManifest found;
  NORMLAB_RETURN_IF_ERROR(Describe(folder / kDatabaseFolder, found));
  if (found.revision() != manifest.revision()) {
    return absl::DataLossError(fmt::format("{} holds revision {} instead of {}: the backup is damaged, use another one",
                                           folder.string(), found.revision(), manifest.revision()));
  }
  return manifest;
}

absl::StatusOr<Restored> RestoreBackup(const fs::path& folder, const fs::path& data_folder, absl::Time now,
                                       const OnProgress& on_progress) {
  Restored restored;
  NORMLAB_ASSIGN_OR_RETURN(restored.manifest, ReadManifest(folder));
  NORMLAB_RETURN_IF_ERROR(CheckVersion(restored.manifest));
  NORMLAB_RETURN_IF_ERROR(CheckNoDatabase(data_folder / kDatabaseFolder));
  const fs::path partial = data_folder / "db.restoring";
  const absl::Status made = Guarded([&] {
    fs::create_directories(data_folder);
    fs::remove_all(partial);
    NORMLAB_RETURN_IF_ERROR(CheckFiles(folder, restored.manifest, partial, on_progress));
    NORMLAB_RETURN_IF_ERROR(RaiseFloors(partial / kDatabaseFolder, now, restored));
    SyncFolder(partial / kDatabaseFolder);
    // Tokens that are there are newer than those of the backup.
    restored.has_tokens = fs::exists(partial / kTokensFile) && !fs::exists(data_folder / kTokensFile);
    if (restored.has_tokens) RenameDurably(partial / kTokensFile, data_folder / kTokensFile);
    RenameDurably(partial / kDatabaseFolder, data_folder / kDatabaseFolder);
    fs::remove_all(partial);
    return absl::OkStatus();
  });
  if (made.ok()) return restored;
  std::error_code ignored;  // The next restore tries again.
  fs::remove_all(partial, ignored);
  return absl::Status(made.code(),
                      fmt::format("nothing was restored to {}: {}", data_folder.string(), std::string(made.message())));
}

}  // namespace normlab::store
