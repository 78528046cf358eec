#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

// Files that are either whole and on disk, or not there: written under a temporary name, synced, renamed.
namespace normlab {

/// A call of the file system failed. `code()` is errno, so that a full disk can be told from a bad path.
struct FileError : std::runtime_error {
  FileError(const std::string& message, int error)
      : std::runtime_error(fmt::format("{}: {}", message, std::generic_category().message(error))), code_(error) {}
  int code() const { return code_; }
  bool is_disk_full() const { return code_ == ENOSPC || code_ == EDQUOT; }

 private:
  int code_;
};

/// Makes what was created, renamed or removed in `folder` survive a power loss.
inline void SyncFolder(const std::filesystem::path& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw FileError(fmt::format("cannot open folder {}", folder.string()), errno);
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  if (error != 0) throw FileError(fmt::format("cannot sync folder {}", folder.string()), error);
}

/// A file that is written once, in order. Every method throws FileError, which names the file and how far writing came.
/// Destroyed before Close, it removes the file.
class DurableFile {
 public:
  explicit DurableFile(std::filesystem::path path) : path_(std::move(path)) {
    fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) throw FileError(fmt::format("cannot create {}", path_.string()), errno);
  }
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;
  ~DurableFile() {
    if (fd_ < 0) return;
    close(fd_);
    unlink(path_.c_str());
  }

  /// Appends.
  void Write(const void* data, size_t size) {
    const char* next = static_cast<const char*>(data);
    for (size_t left = size; left > 0;) {
      const ssize_t written = write(fd_, next, left);
      if (written < 0) {
        if (errno == EINTR) continue;
        throw FileError(
            fmt::format("cannot write {} ({} bytes written, {} more to write)", path_.string(), size_, left), errno);
      }
      next += written;
      left -= static_cast<size_t>(written);
      size_ += static_cast<uint64_t>(written);
    }
  }

  /// Replaces `size` bytes from `offset`, all of which were written before.
  void Overwrite(uint64_t offset, const void* data, size_t size) {
    const ssize_t written = pwrite(fd_, data, size, static_cast<off_t>(offset));
    if (written != static_cast<ssize_t>(size)) {
      throw FileError(fmt::format("cannot write {} bytes at offset {} of {}", size, offset, path_.string()), errno);
    }
  }

  /// The data is on disk when this returns. The name is so only after SyncFolder on the parent.
  void Close() {
    if (fsync(fd_) != 0) throw FileError(fmt::format("cannot sync {} ({} bytes)", path_.string(), size_), errno);
    if (close(std::exchange(fd_, -1)) != 0) throw FileError(fmt::format("cannot close {}", path_.string()), errno);
  }

  const std::filesystem::path& path() const { return path_; }
  uint64_t size() const { return size_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

/// Renames within one folder and makes it durable. Replaces a file of that name.
inline void RenameDurably(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (rename(from.c_str(), to.c_str()) != 0) {
    throw FileError(fmt::format("cannot rename {} to {}", from.string(), to.string()), errno);
  }
  SyncFolder(to.parent_path());
}

/// Replaces or creates `path` with `text`: a reader, or a crash, sees the old or the new content and nothing between.
inline void WriteFileDurably(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  DurableFile file(temporary);
  file.Write(text.data(), text.size());
  file.Close();
  RenameDurably(temporary, path);
}

}  // namespace normlab
