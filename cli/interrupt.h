// Ctrl-C for commands that wait: a callback instead of sudden death, so that the terminal and children are left in
// order.
#pragma once

#include <condition_variable>
#include <csignal>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace normlab::cli {

/// Takes over SIGINT, SIGTERM and SIGHUP for its lifetime. Make it before anything that starts threads (a gRPC
/// channel), because threads inherit the mask of signals. A second SIGINT ends the process at once with exit code 130.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  /// Calls `callback` on another thread at the first signal, or at once if there was one. Replaces the one before; null
  /// removes it. After return the old callback neither runs nor will run.
  void SetCallback(std::function<void()> callback) ABSL_LOCKS_EXCLUDED(mutex_);

  bool interrupted() const ABSL_LOCKS_EXCLUDED(mutex_);
  /// Waits at most `time`; true if there was a signal.
  bool WaitFor(absl::Duration time) ABSL_LOCKS_EXCLUDED(mutex_);

  /// The mask as it was before, for children.
  const sigset_t& old_mask() const { return old_mask_; }

 private:
  void Listen();

  mutable std::mutex mutex_;
  std::condition_variable was_interrupted_;
  bool interrupted_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> callback_ ABSL_GUARDED_BY(mutex_);
  sigset_t old_mask_;
  int stop_fd_;
  int signal_fd_;
  std::thread thread_;
};

}  // namespace normlab::cli
