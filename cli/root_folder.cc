#include "cli/root_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <system_error>
#include <utility>

#include "fmt/format.h"

namespace normlab::cli {
namespace {

constexpr const char* kFolders[] = {"coordinator", "data", "checkpoints", "work", "logs"};

std::optional<pid_t> ReadPid(const std::filesystem::path& path) {
  std::ifstream file(path / "up.pid");
  pid_t pid = 0;
  if (!(file >> pid) || pid <= 1) return std::nullopt;
  return pid;
}

}  // namespace

absl::StatusOr<RootFolder> RootFolder::Lock(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error).lexically_normal();
  for (const char* folder : kFolders) {
    std::filesystem::create_directories(absolute / folder, error);
    if (error) {
      return absl::InternalError(fmt::format("cannot make {}: {}; choose another folder with --root",
                                             (absolute / folder).string(), error.message()));
    }
  }
  const int fd = open((absolute / "up.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::InternalError(
        fmt::format("cannot open {}: {}", (absolute / "up.lock").string(), std::generic_category().message(errno)));
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    const auto pid = ReadPid(absolute);
    return absl::FailedPreconditionError(
        fmt::format("{} is in use by another `normlab up`{}: end it with `normlab down --root {}`, or choose another "
                    "folder with --root",
                    absolute.string(), pid ? fmt::format(" (pid {})", *pid) : "", path.string()));
  }
  return RootFolder(absolute, fd);
}

RootFolder::RootFolder(RootFolder&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

RootFolder::~RootFolder() {
  if (fd_ < 0) return;
  // Only the process that wrote it: after a fork the other side also comes here.
  if (ReadPid(path_) == getpid()) unlink((path_ / "up.pid").c_str());
  close(fd_);
}

absl::Status RootFolder::WritePid() const {
  std::ofstream file(path_ / "up.pid");
  file << getpid() << "\n";
  file.close();
  if (file) return absl::OkStatus();
  return absl::InternalError(fmt::format("cannot write {}", (path_ / "up.pid").string()));
}

std::optional<pid_t> OwnerOf(const std::filesystem::path& path) {
  const int fd = open((path / "up.lock").c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  const bool is_free = flock(fd, LOCK_EX | LOCK_NB) == 0;
  close(fd);
  return is_free ? std::nullopt : ReadPid(path);
}

}  // namespace normlab::cli
