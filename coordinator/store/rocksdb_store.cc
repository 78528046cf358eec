#include "coordinator/store/rocksdb_store.h"

#include <absl/strings/str_replace.h>
#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/statistics.h>
#include <rocksdb/transaction_log.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/write_batch.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>

#include "common/log.h"
#include "common/status.h"
#include "coordinator/store/log_check.h"
#include "coordinator/store/record_store.h"

namespace normlab::store {
namespace {

std::string FreeSpace(const std::string& folder) {
  struct statvfs disk {};
  if (statvfs(folder.c_str(), &disk) != 0) return "free space is unknown";
  const uint64_t free_bytes = static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
  const uint64_t all_bytes = static_cast<uint64_t>(disk.f_blocks) * disk.f_frsize;
  return fmt::format("{} of {} bytes are free", free_bytes, all_bytes);
}

/// What is wrong with which file, and the way out. Nothing is mended here: what a repair leaves out would be lost in
/// silence.
absl::Status Damaged(const std::string& folder, const std::string& what) {
  return absl::DataLossError(
      fmt::format("{}; the database is damaged and was not changed. Move {} away and restore it from a backup: "
                  "normlab-coordinator --data {} restore --from BACKUP",
                  what, folder, std::filesystem::path(folder).parent_path().string()));
}

absl::Status ToStatus(const rocksdb::Status& status, const std::string& folder, const char* doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = status.ToString();
  if (status.IsNoSpace()) {
    return absl::ResourceExhaustedError(fmt::format(
        "cannot {} {}: the disk is full ({}); make room and start again ({})", doing, folder, FreeSpace(folder), text));
  }
  if (status.IsCorruption()) return Damaged(folder, fmt::format("cannot {} {}: {}", doing, folder, text));
  // RocksDB has no code of its own for this.
  if (status.IsIOError() && text.find("lock") != std::string::npos && text.find("LOCK") != std::string::npos) {
    return absl::FailedPreconditionError(
        fmt::format("{} is in use: another coordinator runs on it; stop that one or choose another folder", folder));
  }
  return absl::InternalError(fmt::format("cannot {} {}: {} ({})", doing, folder, text, FreeSpace(folder)));
}

/// Sends RocksDB's warnings and errors to the daemon's log. Its own log file lies on the database's disk, and when that
/// disk is full, Debian's RocksDB (built with assertions) aborts at the second write to the log file, before the failed
/// commit can be reported.
class WarningLog final : public rocksdb::Logger {
 public:
  WarningLog() : Logger(rocksdb::InfoLogLevel::WARN_LEVEL) {}

  using Logger::Logv;
  void Logv(const char* format, va_list arguments) override {
    std::array<char, 1024> text;
    std::vsnprintf(text.data(), text.size(), format, arguments);
    spdlog::warn("rocksdb: {}", text.data());
  }
  void LogHeader(const char*, va_list) override {}  // Hundreds of lines of options at each start.
};

/// Names the first damaged table file, or nothing: RocksDB blames the MANIFEST for what it finds while it reads that.
std::string FindDamagedTable(const std::string& folder, const rocksdb::DBOptions& options) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".sst") continue;
    rocksdb::SstFileReader reader(rocksdb::Options(options, rocksdb::ColumnFamilyOptions()));
    rocksdb::Status status = reader.Open(entry.path().string());
    if (status.ok()) status = reader.VerifyChecksum();
    if (status.IsCorruption()) return fmt::format("{} is damaged: ", entry.path().string());
  }
  return "";
}

rocksdb::DBOptions DatabaseOptions(const RocksDbOptions& chosen) {
  rocksdb::DBOptions options;
  if (chosen.env != nullptr) options.env = chosen.env;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  // Reads at the start whatever can be checked then, and stops writing at the first sign of damage.
  options.paranoid_checks = true;
  // What was acknowledged must not vanish in silence. The default, kPointInTimeRecovery, drops everything behind the
  // first damaged record, acknowledged or not. kAbsoluteConsistency refuses a log whose last record is incomplete,
  // which is what a crash during a write leaves, and that record was never acknowledged. This mode forgives exactly the
  // incomplete end and refuses damage anywhere else; what it takes wrongly for an incomplete end, log_check.h refuses.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.recycle_log_file_num = 0;  // With recycled logs an old record can look like damage at the end.
  // A log that is missing or shorter than when it was closed is an error, not an empty one.
  options.track_and_verify_wals_in_manifest = true;
  // A background job that failed is not tried again behind our back: the next commit fails, and the process ends.
  options.max_bgerror_resume_count = 0;
  // Tables that rarely change would otherwise keep every log file alive.
  options.max_total_wal_size = 64 << 20;
  options.skip_stats_update_on_db_open = true;  // It reads every file's properties only to plan compactions better.
  options.info_log = std::make_shared<WarningLog>();
  // Counters only: timers and histograms would cost each write.
  options.statistics = rocksdb::CreateDBStatistics();
  options.statistics->set_stats_level(rocksdb::StatsLevel::kExceptHistogramOrTimers);
  return options;
}

rocksdb::ColumnFamilyOptions TableOptions() {
  rocksdb::ColumnFamilyOptions options;
  // Reads each new file back before the log that it replaces is deleted. Our files are small and few.
  options.paranoid_file_checks = true;
  return options;
}

class RocksDbBackend final : public Backend {
 public:
  RocksDbBackend(std::string folder, std::unique_ptr<rocksdb::DB> db, std::vector<rocksdb::ColumnFamilyHandle*> handles,
                 std::vector<rocksdb::ColumnFamilyHandle*> tables)
      : folder_(std::move(folder)), db_(std::move(db)), handles_(std::move(handles)), tables_(std::move(tables)) {}

  ~RocksDbBackend() override {
    for (rocksdb::ColumnFamilyHandle* handle : handles_) db_->DestroyColumnFamilyHandle(handle);
    db_->Close();
  }

  absl::Status Write(const std::vector<Mutation>& mutations, Durability durability) override {
    if (has_failed_) {
      return absl::FailedPreconditionError(
          fmt::format("nothing more is written to {}: an earlier write failed, and what is on the disk is known only "
                      "after a restart",
                      folder_));
    }
    rocksdb::WriteBatch batch;
    for (const Mutation& mutation : mutations) {
      rocksdb::ColumnFamilyHandle* table = tables_[static_cast<size_t>(mutation.table)];
      rocksdb::Status added;
      switch (mutation.kind) {
        case Mutation::Kind::kPut:
          added = batch.Put(table, mutation.key, mutation.value);
          break;
        case Mutation::Kind::kDelete:
          added = batch.Delete(table, mutation.key);
          break;
        case Mutation::Kind::kDeleteRange:
          added = batch.DeleteRange(table, mutation.key, mutation.value);
          break;
      }
      NORMLAB_RETURN_IF_ERROR(ToStatus(added, folder_, "write to"));
    }
    rocksdb::WriteOptions options;
    options.sync = durability == Durability::kSynced;
    const absl::Status written = ToStatus(db_->Write(options, &batch), folder_, "write to");
    has_failed_ = !written.ok();
    return written;
  }

  absl::Status Scan(Table table, const std::string& from, const std::string& to,
                    absl::FunctionRef<bool(std::string_view, std::string_view)> visit) override {
    const rocksdb::Slice end(to);
    rocksdb::ReadOptions options;
    if (!to.empty()) options.iterate_upper_bound = &end;
    // A start reads the state's tables whole and nobody reads them again; events, history and logs are read in pages.
    options.fill_cache = table >= Table::kEvents;
    const std::unique_ptr<rocksdb::Iterator> row(db_->NewIterator(options, tables_[static_cast<size_t>(table)]));
    for (row->Seek(from); row->Valid(); row->Next()) {
      if (!visit({row->key().data(), row->key().size()}, {row->value().data(), row->value().size()})) break;
    }
    return ToStatus(row->status(), folder_, "read");
  }

  absl::StatusOr<std::optional<std::string>> LastKey(Table table, const std::string& from,
                                                     const std::string& to) override {
    const rocksdb::Slice begin(from), end(to);
    rocksdb::ReadOptions options;
    options.iterate_lower_bound = &begin;
    options.iterate_upper_bound = &end;
    const std::unique_ptr<rocksdb::Iterator> row(db_->NewIterator(options, tables_[static_cast<size_t>(table)]));
    row->SeekToLast();
    std::optional<std::string> key;
    if (row->Valid()) key = row->key().ToString();
    NORMLAB_RETURN_IF_ERROR(ToStatus(row->status(), folder_, "read"));
    return key;
  }

  std::optional<Statistics> Measure() override {
    const auto of_all = [&](const std::string& property) {
      uint64_t value = 0;
      return db_->GetAggregatedIntProperty(property, &value) ? value : 0;
    };
    const auto of_database = [&](const std::string& property) {
      uint64_t value = 0;
      return db_->GetIntProperty(property, &value) ? value : 0;
    };
    using Properties = rocksdb::DB::Properties;
    const rocksdb::Statistics& counted = *db_->GetDBOptions().statistics;
    return Statistics{.memtable_bytes = of_all(Properties::kSizeAllMemTables),
                      .sst_bytes = of_all(Properties::kTotalSstFilesSize),
                      .wal_bytes = WalBytes(),
                      .block_cache_bytes = of_database(Properties::kBlockCacheUsage),
                      .pending_compaction_bytes = of_all(Properties::kEstimatePendingCompactionBytes),
                      .running_compactions = of_database(Properties::kNumRunningCompactions),
                      .running_flushes = of_database(Properties::kNumRunningFlushes),
                      .is_write_stopped = of_database(Properties::kIsWriteStopped) != 0,
                      .delayed_bytes_per_second = of_database(Properties::kActualDelayedWriteRate),
                      .background_errors = of_all(Properties::kBackgroundErrors),
                      .wal_bytes_written = counted.getTickerCount(rocksdb::WAL_FILE_BYTES),
                      .write_stall_seconds = 1e-6 * static_cast<double>(counted.getTickerCount(rocksdb::STALL_MICROS))};
  }

  absl::StatusOr<uint64_t> ApproximateBytes(Table table, const std::string& from, const std::string& to) override {
    const rocksdb::Range range(from, to);
    rocksdb::SizeApproximationOptions options;
    options.include_memtables = true;
    uint64_t bytes = 0;
    NORMLAB_RETURN_IF_ERROR(ToStatus(
        db_->GetApproximateSizes(options, tables_[static_cast<size_t>(table)], &range, 1, &bytes), folder_, "read"));
    return bytes;
  }

  absl::Status Compact(Table table, const std::string& from, const std::string& to) override {
    const rocksdb::Slice begin(from), end(to);
    rocksdb::CompactRangeOptions options;
    options.exclusive_manual_compaction = false;
    // Deleted ranges take room until the files that they cover are written anew.
    options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
    return ToStatus(db_->CompactRange(options, tables_[static_cast<size_t>(table)], &begin, &end), folder_, "compact");
  }

  absl::Status VerifyChecksums() override {
    return ToStatus(db_->VerifyChecksum(rocksdb::ReadOptions()), folder_, "read");
  }

  absl::Status WriteCheckpoint(const std::string& folder) override {
    rocksdb::Checkpoint* made = nullptr;
    NORMLAB_RETURN_IF_ERROR(ToStatus(rocksdb::Checkpoint::Create(db_.get(), &made), folder_, "checkpoint"));
    const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
    return ToStatus(checkpoint->CreateCheckpoint(folder), folder_, "checkpoint");
  }

  std::string Describe() const override { return folder_; }

 private:
  uint64_t WalBytes() const {
    rocksdb::VectorLogPtr logs;
    if (!db_->GetSortedWalFiles(logs).ok()) return 0;
    uint64_t bytes = 0;
    for (const auto& log : logs) bytes += log->SizeFileBytes();
    return bytes;
  }

  std::string folder_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;
  std::vector<rocksdb::ColumnFamilyHandle*> tables_;  // By Table.
  std::atomic<bool> has_failed_ = false;
};

/// All tables to open: ours, the default one that RocksDB wants, and those of a newer version, so that the check of the
/// schema can say what is wrong.
absl::StatusOr<std::vector<std::string>> TableNames(const std::string& folder, const rocksdb::DBOptions& options) {
  std::vector<std::string> names;
  std::error_code error;
  if (std::filesystem::exists(std::filesystem::path(folder) / "CURRENT", error)) {
    NORMLAB_RETURN_IF_ERROR(ToStatus(rocksdb::DB::ListColumnFamilies(options, folder, &names), folder, "open"));
  }
  const auto add = [&](const std::string& name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  };
  add(rocksdb::kDefaultColumnFamilyName);
  for (const char* name : kTableNames) add(name);
  return names;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> OpenRocksDbBackend(const std::string& folder, const RocksDbOptions& chosen) {
  // RocksDB would make it too, but calls its absence an error in its log first.
  std::error_code error;
  if (!chosen.is_read_only) std::filesystem::create_directories(folder, error);
  if (error) return absl::FailedPreconditionError(fmt::format("cannot make {}: {}", folder, error.message()));
  if (const absl::Status checked = CheckDatabaseFiles(folder); !checked.ok()) {
    return Damaged(folder, std::string(checked.message()));
  }
  const rocksdb::DBOptions options = DatabaseOptions(chosen);
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<std::string> names, TableNames(folder, options));
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  for (const std::string& name : names) descriptors.emplace_back(name, TableOptions());
  rocksdb::DB* db = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  const rocksdb::Status opened = chosen.is_read_only
                                     ? rocksdb::DB::OpenForReadOnly(options, folder, descriptors, &handles, &db)
                                     : rocksdb::DB::Open(options, folder, descriptors, &handles, &db);
  if (opened.IsCorruption()) {
    // What is looked for last is a file of the name that LevelDB gave.
    const std::string text = absl::StrReplaceAll(opened.ToString(), {{".ldb", ".sst"}});
    return Damaged(folder, FindDamagedTable(folder, options) + fmt::format("cannot open {}: {}", folder, text));
  }
  NORMLAB_RETURN_IF_ERROR(ToStatus(opened, folder, "open"));
  std::vector<rocksdb::ColumnFamilyHandle*> tables;
  for (const char* name : kTableNames) {
    tables.push_back(handles[static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin())]);
  }
  return std::make_unique<RocksDbBackend>(folder, std::unique_ptr<rocksdb::DB>(db), std::move(handles),
                                          std::move(tables));
}

absl::StatusOr<std::unique_ptr<Store>> OpenRocksDbStore(const std::string& folder, const RocksDbOptions& options) {
  NORMLAB_ASSIGN_OR_RETURN(auto backend, OpenRocksDbBackend(folder, options));
  return OpenRecordStore(std::move(backend));
}

}  // namespace normlab::store
