#include "cli/supervisor.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "absl/time/clock.h"
#include "cli/format.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

constexpr absl::Duration kBackoffMin = absl::Milliseconds(500);
constexpr absl::Duration kBackoffMax = absl::Seconds(30);
// A daemon that lived so long did not die of its start.
constexpr absl::Duration kHealthyAfter = absl::Minutes(1);
// A worker may have to wait for its trainer to write a checkpoint.
constexpr absl::Duration kWorkerGrace = absl::Minutes(2);
constexpr absl::Duration kCoordinatorGrace = absl::Seconds(20);

}  // namespace

Supervisor::Supervisor(const RootFolder& root, Interrupt& interrupt, std::function<void(const std::string&)> say)
    : root_(root), interrupt_(interrupt), say_(std::move(say)), wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  interrupt_.SetCallback([fd = wake_fd_] {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof(one));
  });
}

Supervisor::~Supervisor() {
  interrupt_.SetCallback(nullptr);
  Stop();
  close(wake_fd_);
}

absl::Status Supervisor::Start(Daemon daemon) {
  Managed managed{.daemon = std::move(daemon), .started_at = absl::Now(), .backoff = kBackoffMin};
  NORMLAB_ASSIGN_OR_RETURN(managed.process, ChildProcess::Start(managed.daemon.arguments,
                                                                root_.Log(managed.daemon.name), interrupt_.old_mask()));
  managed_.push_back(std::move(managed));
  return absl::OkStatus();
}

absl::Status Supervisor::WaitUntil(const std::string& name, const std::function<bool()>& is_ready,
                                   absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  const auto found =
      std::find_if(managed_.begin(), managed_.end(), [&](const Managed& m) { return m.daemon.name == name; });
  while (!is_ready()) {
    if (interrupt_.interrupted()) return absl::CancelledError("interrupted");
    const std::string log = root_.Log(name).string();
    if (const auto ended = found->process->Ended()) {
      return absl::InternalError(
          fmt::format("{} ended at its start ({}); the end of {}:\n{}", name, *ended, log, LastLines(log, 5)));
    }
    if (absl::Now() > deadline) {
      return absl::InternalError(fmt::format("{} was not ready within {}; the end of {}:\n{}", name,
                                             DurationText(timeout), log, LastLines(log, 5)));
    }
  }
  return absl::OkStatus();
}

void Supervisor::Reap(Managed& managed) {
  if (!managed.process) return;
  const auto ended = managed.process->Ended();
  if (!ended) return;
  managed.process.reset();
  if (absl::Now() - managed.started_at > kHealthyAfter) managed.backoff = kBackoffMin;
  managed.restart_at = absl::Now() + managed.backoff;
  say_(fmt::format("{} ended ({}); starting it again in {}, its log is {}", managed.daemon.name, *ended,
                   absl::FormatDuration(managed.backoff), root_.Log(managed.daemon.name).string()));
  managed.backoff = std::min(managed.backoff * 2, kBackoffMax);
}

void Supervisor::Restart(Managed& managed) {
  if (managed.process || absl::Now() < managed.restart_at) return;
  auto process = ChildProcess::Start(managed.daemon.arguments, root_.Log(managed.daemon.name), interrupt_.old_mask());
  if (!process.ok()) {
    managed.restart_at = absl::Now() + managed.backoff;
    say_(std::string(process.status().message()));
    return;
  }
  managed.process = *std::move(process);
  managed.started_at = absl::Now();
}

void Supervisor::WaitForNews() {
  std::vector<pollfd> polled = {{.fd = wake_fd_, .events = POLLIN}};
  absl::Time wake_at = absl::InfiniteFuture();
  for (const Managed& managed : managed_) {
    if (managed.process) {
      polled.push_back({.fd = managed.process->fd(), .events = POLLIN});
    } else {
      wake_at = std::min(wake_at, managed.restart_at);
    }
  }
  int timeout_ms = -1;
  if (wake_at != absl::InfiniteFuture()) {
    timeout_ms = static_cast<int>(std::max<int64_t>(0, absl::ToInt64Milliseconds(wake_at - absl::Now()) + 1));
  }
  poll(polled.data(), polled.size(), timeout_ms);
}

void Supervisor::Run() {
  while (!interrupt_.interrupted()) {
    for (Managed& managed : managed_) {
      Reap(managed);
      Restart(managed);
    }
    WaitForNews();
  }
}

void Supervisor::StopGroup(size_t begin, size_t end, absl::Duration grace) {
  for (size_t i = begin; i < end; ++i) {
    if (managed_[i].process) managed_[i].process->Signal(SIGTERM);
  }
  const absl::Time deadline = absl::Now() + grace;
  for (size_t i = begin; i < end; ++i) {
    auto& process = managed_[i].process;
    if (!process || process->WaitFor(deadline - absl::Now())) continue;
    say_(fmt::format("{} did not end within {}; killing it", managed_[i].daemon.name, DurationText(grace)));
    process->Signal(SIGKILL);
    process->WaitFor(absl::Seconds(10));
  }
}

void Supervisor::Stop() {
  if (managed_.empty()) return;
  // Workers first: their last reports (checkpoint, stopped) need a coordinator that listens.
  StopGroup(1, managed_.size(), kWorkerGrace);
  StopGroup(0, 1, kCoordinatorGrace);
  managed_.clear();
}

}  // namespace normlab::cli
