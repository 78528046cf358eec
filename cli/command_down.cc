// normlab down: ends a `normlab up`.
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>

extern "C" {  // The header of glibc 2.36 forgets it.
#include <sys/pidfd.h>
}

#include "cli/commands.h"
#include "cli/root_folder.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct DownOptions {
  std::string root = ".normlab";
  int timeout_s = 180;
};

absl::StatusOr<ExitCode> RunDown(const DownOptions& options, const Session& session) {
  const auto pid = OwnerOf(options.root);
  if (!pid) {
    session.Note(fmt::format("nothing runs on {}", options.root));
    return ExitCode::kOk;
  }
  const int fd = pidfd_open(*pid, 0);
  // Asked again: only while the lock is held is the number that process's.
  if (fd < 0 || OwnerOf(options.root) != pid) {
    if (fd >= 0) close(fd);
    session.Note(fmt::format("nothing runs on {} any more", options.root));
    return ExitCode::kOk;
  }
  session.Note(fmt::format("stopping normlab on {} (pid {}); workers save checkpoints first", options.root, *pid));
  if (kill(*pid, SIGTERM) != 0) {
    const int error = errno;
    close(fd);
    return absl::PermissionDeniedError(
        fmt::format("cannot signal pid {}: {}", *pid, std::generic_category().message(error)));
  }
  pollfd polled = {.fd = fd, .events = POLLIN};
  const int ready = poll(&polled, 1, options.timeout_s * 1000);
  close(fd);
  if (ready == 1) {
    session.Note("stopped; what ran goes on at the next `normlab up`");
    return ExitCode::kOk;
  }
  return absl::AbortedError(fmt::format("pid {} has not ended within {} s; it goes on stopping, see {}/logs", *pid,
                                        options.timeout_s, options.root));
}

}  // namespace

void AddDown(CLI::App& app, Session& session) {
  auto options = std::make_shared<DownOptions>();
  CLI::App* command = AddCommand(app, session, "down", "End a `normlab up`: workers save checkpoints, then all stop",
                                 "  normlab down\n"
                                 "  normlab down --root /srv/normlab",
                                 options, [&session](const DownOptions& chosen) { return RunDown(chosen, session); });
  command->add_option("--root", options->root, "Folder given to `normlab up`")->type_name("DIR")->capture_default_str();
  command->add_option("--timeout", options->timeout_s, "Longest wait")
      ->type_name("SECONDS")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
}

}  // namespace normlab::cli
