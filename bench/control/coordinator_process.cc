#include "bench/control/coordinator_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace normlab::bench {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(60);
constexpr absl::Duration kPollInterval = absl::Milliseconds(5);
constexpr size_t kLogTailBytes = 2000;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string LogTail(const std::string& path) {
  const std::string log = ReadFile(path);
  return log.substr(log.size() > kLogTailBytes ? log.size() - kLogTailBytes : 0);
}

/// The gRPC address, once the coordinator has written it whole.
std::optional<std::string> FindAddress(const std::string& data_folder) {
  const nlohmann::json address =
      nlohmann::json::parse(ReadFile(data_folder + "/address.json"), nullptr, /*allow_exceptions=*/false);
  if (!address.is_object() || !address.contains("grpc") || !address["grpc"].is_string()) return std::nullopt;
  return address["grpc"].get<std::string>();
}

[[noreturn]] void ExecInChild(const std::vector<std::string>& arguments, const std::string& log_path, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  const int log = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0) _exit(127);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  dprintf(STDERR_FILENO, "cannot start %s: %s\n", argv[0], strerror(errno));
  _exit(127);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CoordinatorProcess>> CoordinatorProcess::Start(const std::string& binary,
                                                                              const std::string& data_folder) {
  std::error_code error;
  std::filesystem::create_directories(data_folder, error);
  if (error) return absl::FailedPreconditionError(fmt::format("cannot create {}: {}", data_folder, error.message()));
  std::filesystem::remove(data_folder + "/address.json", error);  // Of a coordinator before this one.
  const std::string log_path = data_folder + ".log";
  const std::vector<std::string> arguments = {binary,        "--data", data_folder,  "--listen",
                                              "127.0.0.1:0", "--http", "127.0.0.1:0"};
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return absl::UnavailableError(fmt::format("cannot fork: {}", strerror(errno)));
  if (pid == 0) ExecInChild(arguments, log_path, parent);

  std::unique_ptr<CoordinatorProcess> process(new CoordinatorProcess(pid));
  const absl::Time deadline = absl::Now() + kStartTimeout;
  while (absl::Now() < deadline) {
    if (auto address = FindAddress(data_folder)) {
      process->grpc_address_ = *std::move(address);
      return process;
    }
    siginfo_t info = {};
    if (waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid) {
      return absl::UnavailableError(
          fmt::format("{} ended (status {}) before it listened:\n{}", binary, info.si_status, LogTail(log_path)));
    }
    absl::SleepFor(kPollInterval);
  }
  return absl::DeadlineExceededError(fmt::format("{} did not write {}/address.json within {}:\n{}", binary, data_folder,
                                                 absl::FormatDuration(kStartTimeout), LogTail(log_path)));
}

double CoordinatorProcess::CpuSeconds() const {
  // "PID (NAME) STATE ..." with user and system time, in ticks, as fields 14 and 15.
  const std::string stat = ReadFile(fmt::format("/proc/{}/stat", pid_));
  std::istringstream fields(stat.substr(stat.rfind(')') + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  int64_t user = 0, system = 0;
  fields >> user >> system;
  return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

int64_t CoordinatorProcess::ResidentBytes() const {
  std::istringstream fields(ReadFile(fmt::format("/proc/{}/statm", pid_)));
  int64_t all = 0, resident = 0;
  fields >> all >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

CoordinatorProcess::~CoordinatorProcess() {
  // Nothing of its folder is kept, so there is nothing to end cleanly.
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

}  // namespace normlab::bench
