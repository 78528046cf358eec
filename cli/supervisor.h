// Keeps the daemons of `normlab up` running.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/child_process.h"
#include "cli/interrupt.h"
#include "cli/root_folder.h"

namespace normlab::cli {

/// A daemon by name, with its command line.
struct Daemon {
  std::string name;  // "coordinator", "worker-1"; also the name of its log.
  std::vector<std::string> arguments;
};

/// Starts daemons, restarts those that end, stops them in reverse order of start. All methods from one thread.
class Supervisor {
 public:
  /// `say` gets what a user should know, one line at a time.
  Supervisor(const RootFolder& root, Interrupt& interrupt, std::function<void(const std::string&)> say);
  ~Supervisor();

  absl::Status Start(Daemon daemon);
  /// Calls `is_ready` until it says so. INTERNAL with the end of its log if the daemon `name` ends first or
  /// is not ready after `timeout`, CANCELLED if the user interrupts. `is_ready` should wait a little itself.
  absl::Status WaitUntil(const std::string& name, const std::function<bool()>& is_ready, absl::Duration timeout);
  /// Restarts what ends, with growing pauses, until the user interrupts.
  void Run();
  /// SIGTERM to the daemons but the first, then to the first when they are gone; SIGKILL to those that do not end in
  /// time.
  void Stop();

 private:
  struct Managed {
    Daemon daemon;
    std::optional<ChildProcess> process;
    absl::Time started_at;
    absl::Duration backoff;
    absl::Time restart_at;  // If there is no process.
  };

  void StopGroup(size_t begin, size_t end, absl::Duration grace);
  void Reap(Managed& managed);
  void Restart(Managed& managed);
  /// Until a process ends, the user interrupts or it is time for a restart.
  void WaitForNews();

  const RootFolder& root_;
  Interrupt& interrupt_;
  const std::function<void(const std::string&)> say_;
  int wake_fd_;
  std::vector<Managed> managed_;
};

}  // namespace normlab::cli
