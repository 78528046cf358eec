#include "worker/agent/child.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::agent {
namespace {

struct Pipe {
  FileDescriptor reader;
  FileDescriptor writer;
};

absl::Status ErrnoError(int error, const std::string& what) {
  const std::string message = fmt::format("{}: {}", what, std::generic_category().message(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case ENOEXEC:
      return absl::PermissionDeniedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::StatusOr<Pipe> OpenPipe() {
  std::array<int, 2> fds;
  if (pipe2(fds.data(), O_CLOEXEC) != 0) return ErrnoError(errno, "cannot open a pipe");
  return Pipe{.reader = FileDescriptor(fds[0]), .writer = FileDescriptor(fds[1])};
}

absl::Status SetNonBlocking(const FileDescriptor& fd) {
  if (fcntl(fd.get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoError(errno, "cannot make a pipe non-blocking");
  return absl::OkStatus();
}

/// What the child needs, prepared before the fork: after it, only async-signal-safe calls are allowed.
struct ExecPlan {
  pid_t parent;
  char* const* argv;
  const char* folder;
  int null_fd;
  int out_fd;
  int err_fd;
  int status_fd;
};

void MarkAllCloseOnExec() {
  if (close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC) == 0) return;
  // Kernels before 5.11.
  const long fds_max = sysconf(_SC_OPEN_MAX);
  for (int fd = 3; fd < fds_max; ++fd) fcntl(fd, F_SETFD, FD_CLOEXEC);
}

[[noreturn]] void FailInChild(const ExecPlan& plan, int error) {
  // The parent reads either this or the end of file that a successful exec brings.
  (void)!write(plan.status_fd, &error, sizeof(error));
  _exit(127);
}

[[noreturn]] void RunInChild(const ExecPlan& plan) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) FailInChild(plan, errno);
  // The parent may have died before the line above: then nobody would ever kill this process.
  if (getppid() != plan.parent) _exit(127);
  setpgid(0, 0);
  // Ignored signals and the mask survive exec; the agent ignores SIGPIPE and blocks what it waits for.
  for (int signal_number = 1; signal_number < NSIG; ++signal_number) signal(signal_number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (dup2(plan.null_fd, STDIN_FILENO) < 0 || dup2(plan.out_fd, STDOUT_FILENO) < 0 ||
      dup2(plan.err_fd, STDERR_FILENO) < 0 || chdir(plan.folder) != 0) {
    FailInChild(plan, errno);
  }
  MarkAllCloseOnExec();
  execv(plan.argv[0], plan.argv);
  FailInChild(plan, errno);
}

/// Errno of the exec, or 0.
int WaitForExec(const FileDescriptor& status) {
  int error = 0;
  ssize_t bytes;
  do {
    bytes = read(status.get(), &error, sizeof(error));
  } while (bytes < 0 && errno == EINTR);
  return bytes == sizeof(error) ? error : 0;
}

/// Children of this process. Reads all of /proc, because not every kernel lists children (CONFIG_PROC_CHILDREN).
std::vector<pid_t> ListChildren() {
  std::vector<pid_t> children;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    pid_t pid;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    // pid (name) state ppid ...: the name may hold blanks and parentheses.
    std::string stat;
    std::getline(std::ifstream(entry.path() / "stat"), stat);
    const size_t name_end = stat.rfind(')');
    pid_t parent = 0;
    char state;
    if (name_end != std::string::npos && sscanf(stat.c_str() + name_end + 1, " %c %d", &state, &parent) == 2 &&
        parent == getpid()) {
      children.push_back(pid);
    }
  }
  return children;
}

}  // namespace

absl::Status BecomeSubreaper() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return ErrnoError(errno, "cannot become a child subreaper");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Child>> Child::Spawn(const ChildOptions& options) {
  NORMLAB_ASSIGN_OR_RETURN(Pipe out, OpenPipe());
  NORMLAB_ASSIGN_OR_RETURN(Pipe err, OpenPipe());
  NORMLAB_ASSIGN_OR_RETURN(Pipe status, OpenPipe());
  NORMLAB_RETURN_IF_ERROR(SetNonBlocking(out.reader));
  NORMLAB_RETURN_IF_ERROR(SetNonBlocking(err.reader));
  const FileDescriptor null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null.is_open()) return ErrnoError(errno, "cannot open /dev/null");
  std::vector<char*> argv;
  for (const std::string& argument : options.argv) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const ExecPlan plan = {.parent = getpid(),
                         .argv = argv.data(),
                         .folder = options.folder.c_str(),
                         .null_fd = null.get(),
                         .out_fd = out.writer.get(),
                         .err_fd = err.writer.get(),
                         .status_fd = status.writer.get()};
  const pid_t pid = fork();
  if (pid < 0) return ErrnoError(errno, "cannot fork");
  if (pid == 0) RunInChild(plan);
  setpgid(pid, pid);  // Also here: Kill may be called before the child has come to it.
  status.writer.Close();
  if (const int error = WaitForExec(status.reader); error != 0) {
    waitpid(pid, nullptr, 0);
    return ErrnoError(error, fmt::format("cannot execute {} in {}", options.argv[0], options.folder));
  }
  FileDescriptor pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.is_open()) {
    const int error = errno;
    kill(-pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return ErrnoError(error, "cannot open a pidfd (needs Linux 5.3)");
  }
  return std::unique_ptr<Child>(new Child(pid, std::move(pidfd), std::move(out.reader), std::move(err.reader)));
}

Child::Child(pid_t pid, FileDescriptor pidfd, FileDescriptor out, FileDescriptor err)
    : pid_(pid), pidfd_(std::move(pidfd)), out_(std::move(out)), err_(std::move(err)) {}

Child::~Child() {
  if (exit_) return;
  Kill();
  pollfd ended = {.fd = pidfd_.get(), .events = POLLIN};
  while (poll(&ended, 1, -1) < 0 && errno == EINTR) {
  }
  TryReap();
}

void Child::Terminate() {
  if (!exit_) kill(pid_, SIGTERM);
}

void Child::Kill() {
  if (!exit_) kill(-pid_, SIGKILL);
}

std::optional<ChildExit> Child::TryReap() {
  if (!exit_) {
    siginfo_t info = {};
    if (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) {
      return std::nullopt;
    }
    // Before the reaping: as long as the child is a zombie, the number of its group cannot mean another one.
    kill(-pid_, SIGKILL);
    waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED);
    exit_ = info.si_code == CLD_EXITED ? ChildExit{.code = info.si_status} : ChildExit{.signal = info.si_status};
  }
  // Only a subreaper gets orphans; without that, another child of this process is somebody else's.
  int is_subreaper = 0;
  prctl(PR_GET_CHILD_SUBREAPER, &is_subreaper);
  if (is_subreaper == 0) {
    is_gone_ = true;
    return exit_;
  }
  pid_t reaped;
  do {
    reaped = waitpid(-1, nullptr, WNOHANG);
  } while (reaped > 0);
  is_gone_ = reaped < 0;
  if (is_gone_) return exit_;
  for (const pid_t stray : ListChildren()) kill(stray, SIGKILL);
  return std::nullopt;
}

void Child::ReapOrphans() {
  siginfo_t info = {};
  while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0 && info.si_pid != pid_) {
    waitpid(info.si_pid, nullptr, 0);
    info = {};
  }
}

}  // namespace normlab::agent
