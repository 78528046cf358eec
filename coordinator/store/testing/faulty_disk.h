#pragma once

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace normlab::store {

/// A disk that can fail, under a real RocksDB. Any thread.
class FaultyDisk {
 public:
  FaultyDisk() : file_system_(std::make_shared<FileSystem>(*this)), env_(rocksdb::NewCompositeEnv(file_system_)) {}

  /// For OpenRocksDbBackend; lives as long as the disk.
  rocksdb::Env* env() { return env_.get(); }

  /// The next sync of a file whose name ends so fails, once. Later ones succeed, as Linux does it, though what was not
  /// written is lost.
  void FailNextSync(std::string suffix) {
    const std::scoped_lock lock(mutex_);
    failing_suffix_ = std::move(suffix);
  }

  /// From now on `bytes` can be written; the write past them is cut short and fails.
  void SetFreeBytes(int64_t bytes) {
    const std::scoped_lock lock(mutex_);
    free_bytes_ = bytes;
  }

  /// What a power loss does to a stopped database: everything that was not synced is gone.
  void DropUnsynced() {
    const std::scoped_lock lock(mutex_);
    for (const auto& [path, bytes] : synced_) {
      std::error_code error;
      const uint64_t size = std::filesystem::file_size(path, error);
      if (!error && size > bytes) std::filesystem::resize_file(path, bytes);
    }
  }

 private:
  class File final : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    File(FaultyDisk& disk, std::string path, std::unique_ptr<rocksdb::FSWritableFile> target)
        : FSWritableFileOwnerWrapper(std::move(target)), disk_(disk), path_(std::move(path)) {}

    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* context) override {
      const size_t granted = disk_.Take(data.size());
      written_ += granted;
      rocksdb::IOStatus status =
          FSWritableFileOwnerWrapper::Append(rocksdb::Slice(data.data(), granted), options, context);
      if (status.ok() && granted < data.size()) return rocksdb::IOStatus::NoSpace("no space left on device", path_);
      return status;
    }
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             const rocksdb::DataVerificationInfo&, rocksdb::IODebugContext* context) override {
      return Append(data, options, context);
    }
    rocksdb::IOStatus Sync(const rocksdb::IOOptions& options, rocksdb::IODebugContext* context) override {
      if (disk_.FailsSync(path_)) return rocksdb::IOStatus::IOError("while fdatasync: input/output error", path_);
      return Synced(FSWritableFileOwnerWrapper::Sync(options, context));
    }
    rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options, rocksdb::IODebugContext* context) override {
      if (disk_.FailsSync(path_)) return rocksdb::IOStatus::IOError("while fsync: input/output error", path_);
      return Synced(FSWritableFileOwnerWrapper::Fsync(options, context));
    }

   private:
    rocksdb::IOStatus Synced(rocksdb::IOStatus status) {
      if (status.ok()) disk_.NoteSynced(path_, written_);
      return status;
    }

    FaultyDisk& disk_;
    const std::string path_;
    uint64_t written_ = 0;
  };

  class FileSystem final : public rocksdb::FileSystemWrapper {
   public:
    explicit FileSystem(FaultyDisk& disk) : FileSystemWrapper(rocksdb::FileSystem::Default()), disk_(disk) {}
    const char* Name() const override { return "FaultyDisk"; }
    rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                      std::unique_ptr<rocksdb::FSWritableFile>* file,
                                      rocksdb::IODebugContext* context) override {
      rocksdb::IOStatus status = FileSystemWrapper::NewWritableFile(path, options, file, context);
      if (!status.ok()) return status;
      disk_.NoteSynced(path, 0);
      *file = std::make_unique<File>(disk_, path, std::move(*file));
      return status;
    }

   private:
    FaultyDisk& disk_;
  };

  size_t Take(size_t bytes) {
    const std::scoped_lock lock(mutex_);
    const size_t granted = std::min<int64_t>(static_cast<int64_t>(bytes), free_bytes_);
    free_bytes_ -= static_cast<int64_t>(granted);
    return granted;
  }

  bool FailsSync(const std::string& path) {
    const std::scoped_lock lock(mutex_);
    if (failing_suffix_.empty() || !path.ends_with(failing_suffix_)) return false;
    failing_suffix_.clear();
    return true;
  }

  void NoteSynced(const std::string& path, uint64_t bytes) {
    const std::scoped_lock lock(mutex_);
    synced_[path] = bytes;
  }

  std::mutex mutex_;
  std::string failing_suffix_;
  int64_t free_bytes_ = std::numeric_limits<int64_t>::max();
  std::map<std::string, uint64_t> synced_;  // Bytes of each file that survive a power loss.
  std::shared_ptr<FileSystem> file_system_;
  std::unique_ptr<rocksdb::Env> env_;
};

}  // namespace normlab::store
