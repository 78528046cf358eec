#include "cli/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <fstream>
#include <system_error>
#include <utility>

extern "C" {  // The header of glibc 2.36 forgets it.
#include <sys/pidfd.h>
}

#include "absl/time/clock.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::cli {
namespace {

std::string ErrorText(int error) { return std::generic_category().message(error); }

/// Between fork and exec: only calls that are safe while other threads hold locks.
[[noreturn]] void BecomeChild(const std::vector<char*>& arguments, int log_fd, int error_fd, pid_t parent,
                              const sigset_t& mask) {
  const auto fail = [error_fd] {
    const int error = errno;
    [[maybe_unused]] const ssize_t written = write(error_fd, &error, sizeof(error));
    _exit(127);
  };
  setpgid(0, 0);
  if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) fail();
  // The parent may have died before the line above took effect.
  if (getppid() != parent) _exit(0);
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (dup2(null_fd, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0) fail();
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  execv(arguments[0], arguments.data());
  fail();
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& arguments,
                                                 const std::filesystem::path& log, const sigset_t& mask) {
  const int log_fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log_fd < 0) return absl::InternalError(fmt::format("cannot write {}: {}", log.string(), ErrorText(errno)));
  int error_pipe[2];
  if (pipe2(error_pipe, O_CLOEXEC) != 0) {
    const int error = errno;
    close(log_fd);
    return absl::InternalError(fmt::format("cannot start {}: {}", arguments[0], ErrorText(error)));
  }
  std::vector<char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) BecomeChild(pointers, log_fd, error_pipe[1], parent, mask);
  const int fork_error = errno;
  close(log_fd);
  close(error_pipe[1]);
  // The pipe closes itself at exec; a number comes only if something failed before.
  int error = pid < 0 ? fork_error : 0;
  if (pid > 0) {
    while (read(error_pipe[0], &error, sizeof(error)) < 0 && errno == EINTR) {
    }
  }
  close(error_pipe[0]);
  if (error != 0) {
    if (pid > 0) waitpid(pid, nullptr, 0);
    return absl::InternalError(fmt::format("cannot start {}: {}", arguments[0], ErrorText(error)));
  }
  const int pid_fd = pidfd_open(pid, 0);
  if (pid_fd < 0) {
    error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return absl::InternalError(fmt::format("cannot watch {} (pid {}): {}", arguments[0], pid, ErrorText(error)));
  }
  return ChildProcess(pid, pid_fd);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pid_fd_(std::exchange(other.pid_fd_, -1)), ended_(std::move(other.ended_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this == &other) return *this;
  Abandon();
  pid_ = std::exchange(other.pid_, -1);
  pid_fd_ = std::exchange(other.pid_fd_, -1);
  ended_ = std::move(other.ended_);
  return *this;
}

ChildProcess::~ChildProcess() { Abandon(); }

void ChildProcess::Abandon() {
  if (pid_ < 0) return;
  if (!ended_) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(pid_fd_);
}

void ChildProcess::Signal(int signal) const {
  if (!ended_) kill(pid_, signal);
}

std::optional<std::string> ChildProcess::Ended() {
  int status = 0;
  if (ended_ || waitpid(pid_, &status, WNOHANG) != pid_) return ended_;
  if (WIFSIGNALED(status)) {
    ended_ = fmt::format("signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  } else {
    ended_ = fmt::format("exit code {}", WEXITSTATUS(status));
  }
  return ended_;
}

bool ChildProcess::WaitFor(absl::Duration time) {
  pollfd polled = {.fd = pid_fd_, .events = POLLIN};
  const absl::Time deadline = absl::Now() + time;
  while (!Ended()) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(left) + 1));
  }
  return true;
}

std::string LastLines(const std::filesystem::path& file, int count) {
  std::ifstream in(file);
  std::deque<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    lines.push_back(std::move(line));
    if (static_cast<int>(lines.size()) > count) lines.pop_front();
  }
  return fmt::format("{}", fmt::join(lines, "\n"));
}

}  // namespace normlab::cli
