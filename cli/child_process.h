// A daemon started by `normlab up`.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace normlab::cli {

/// One process in a process group of its own, so that a Ctrl-C in the terminal does not reach it. It gets SIGTERM when
/// the thread that started it dies, however that happens. Not thread-safe; use it from one thread that lives as long.
class ChildProcess {
 public:
  /// Starts `arguments` (the first is the program's path) with `mask` as its signal mask and its output appended to
  /// `log`.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& arguments, const std::filesystem::path& log,
                                            const sigset_t& mask);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  /// Kills it if it still lives.
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  /// Readable once the process has ended.
  int fd() const { return pid_fd_; }
  void Signal(int signal) const;
  /// How it ended ("exit code 1", "signal 9 (Killed)"), or nothing while it lives. Does not wait.
  std::optional<std::string> Ended();
  /// Waits at most `time`; true if it has ended.
  bool WaitFor(absl::Duration time);

 private:
  ChildProcess(pid_t pid, int pid_fd) : pid_(pid), pid_fd_(pid_fd) {}
  void Abandon();

  pid_t pid_ = -1;
  int pid_fd_ = -1;
  std::optional<std::string> ended_;
};

/// The last `count` lines of a file, for error messages; empty if it cannot be read.
std::string LastLines(const std::filesystem::path& file, int count);

}  // namespace normlab::cli
