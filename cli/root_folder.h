// The folder that `normlab up` owns, and the lock that says so.
//
//   ROOT/up.lock           locked (flock) while an `up` lives
//   ROOT/up.pid            its process id
//   ROOT/coordinator/      the store            ROOT/data/         datasets
//   ROOT/checkpoints/      of all runs          ROOT/work/NAME/    of one worker
//   ROOT/logs/             NAME.log of each daemon
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>

#include "absl/status/statusor.h"

namespace normlab::cli {

/// Holds the lock for its lifetime.
class RootFolder {
 public:
  /// Makes the folders and takes the lock. FAILED_PRECONDITION with the owner's pid if another process has it.
  static absl::StatusOr<RootFolder> Lock(const std::filesystem::path& path);

  RootFolder(RootFolder&& other) noexcept;
  RootFolder& operator=(RootFolder&&) = delete;
  /// Removes up.pid and gives the lock back.
  ~RootFolder();

  /// Absolute.
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path Log(const std::string& name) const { return path_ / "logs" / (name + ".log"); }
  /// Records this process as the owner. Call it in the process that stays.
  absl::Status WritePid() const;

 private:
  RootFolder(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::filesystem::path path_;
  int fd_;
};

/// The process that holds the lock of `path` now; nothing if there is none.
std::optional<pid_t> OwnerOf(const std::filesystem::path& path);

}  // namespace normlab::cli
