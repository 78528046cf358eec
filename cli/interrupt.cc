#include "cli/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include "cli/exit_code.h"

namespace normlab::cli {

Interrupt::Interrupt() {
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&mask, signal);
  pthread_sigmask(SIG_BLOCK, &mask, &old_mask_);
  stop_fd_ = eventfd(0, EFD_CLOEXEC);
  signal_fd_ = signalfd(-1, &mask, SFD_CLOEXEC);
  thread_ = std::thread([this] { Listen(); });
}

Interrupt::~Interrupt() {
  const uint64_t one = 1;
  while (write(stop_fd_, &one, sizeof(one)) < 0) {
  }
  thread_.join();
  close(stop_fd_);
  close(signal_fd_);
  pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

void Interrupt::Listen() {
  pollfd polls[] = {{.fd = stop_fd_, .events = POLLIN}, {.fd = signal_fd_, .events = POLLIN}};
  while (true) {
    if (poll(polls, 2, -1) < 0) continue;
    if (polls[0].revents != 0) return;
    signalfd_siginfo info;
    if (read(signal_fd_, &info, sizeof(info)) != sizeof(info)) continue;
    const std::scoped_lock lock(mutex_);
    if (interrupted_ && info.ssi_signo == SIGINT) _exit(static_cast<int>(ExitCode::kInterrupted));
    interrupted_ = true;
    was_interrupted_.notify_all();
    // Called under the lock: SetCallback may then promise that an old callback is over.
    if (callback_) std::exchange(callback_, nullptr)();
  }
}

void Interrupt::SetCallback(std::function<void()> callback) {
  const std::scoped_lock lock(mutex_);
  callback_ = std::move(callback);
  if (interrupted_ && callback_) std::exchange(callback_, nullptr)();
}

bool Interrupt::interrupted() const {
  const std::scoped_lock lock(mutex_);
  return interrupted_;
}

bool Interrupt::WaitFor(absl::Duration time) {
  std::unique_lock lock(mutex_);
  return was_interrupted_.wait_for(lock, absl::ToChronoMilliseconds(time), [this] { return interrupted_; });
}

}  // namespace normlab::cli
