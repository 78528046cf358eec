#include "cli/run_files.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "common/ids.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

std::string CheckpointsHint(const v1::Run& run) {
  if (!run.progress().has_checkpoint()) return "it has none yet: normlab watch " + run.id();
  return fmt::format("its workers wrote {}: give the folder above their checkpoints with --root or --checkpoint",
                     run.progress().checkpoint().name());
}

/// A program beside this one, as exec wants it.
struct Command {
  Command(const Session& session, const std::string& name, std::vector<std::string> given)
      : path(session.program_folder / name), arguments(std::move(given)) {
    arguments.insert(arguments.begin(), path);
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
  }

  const std::string path;
  std::vector<std::string> arguments;
  std::vector<char*> pointers;
};

absl::Status NotStarted(const std::string& path, int error) {
  return absl::InternalError(
      fmt::format("cannot start {}: {}; build it with ./dev build", path, std::generic_category().message(error)));
}

}  // namespace

void AddRunFilesFlags(CLI::App* command, RunFilesOptions* options) {
  command->add_option("run", options->run, "Run (exp-0001.03)")->type_name("RUN");
  command->add_option("--checkpoint", options->checkpoint, "A checkpoint or a run's folder of them, in place of a run")
      ->type_name("DIR");
  command->add_option("--data", options->data, "Dataset (default: the run's, below ROOT/data)")->type_name("DIR");
  command->add_option("--root", options->root, "Holds checkpoints/ and data/, as `normlab up` makes them")
      ->type_name("DIR")
      ->capture_default_str();
}

absl::StatusOr<RunFiles> FindRunFiles(const RunFilesOptions& options, const Session& session) {
  if (options.run.empty() == options.checkpoint.empty()) {
    return absl::InvalidArgumentError("give a run (exp-0001.03) or --checkpoint DIR, one of them");
  }
  if (!options.checkpoint.empty()) return RunFiles{options.checkpoint, options.data};
  if (!RunId::Parse(options.run)) {
    return absl::InvalidArgumentError(fmt::format("'{}' is no run (exp-0001.03)", options.run));
  }
  NORMLAB_ASSIGN_OR_RETURN(const v1::Run run, session.Connect()->GetRun(options.run));
  RunFiles files{.checkpoint = options.root / "checkpoints" / options.run, .data = options.data};
  if (files.data.empty()) files.data = options.root / "data" / run.spec().data().dataset();
  std::error_code ignored;
  if (!std::filesystem::is_directory(files.checkpoint, ignored)) {
    return absl::FailedPreconditionError(
        fmt::format("{} has no checkpoints in {}; {}", options.run, files.checkpoint.string(), CheckpointsHint(run)));
  }
  return files;
}

absl::Status RunProgram(const Session& session, const std::string& name, std::vector<std::string> arguments) {
  Command command(session, name, std::move(arguments));
  // Ctrl-C reaches both: the program's end decides. It itself must not inherit that we look away.
  struct sigaction ignore = {}, interrupt = {}, quit = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGINT, &ignore, &interrupt);
  sigaction(SIGQUIT, &ignore, &quit);
  sigset_t defaults;
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGINT);
  sigaddset(&defaults, SIGQUIT);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  std::fflush(nullptr);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, command.path.c_str(), nullptr, &attributes, command.pointers.data(), environ);
  posix_spawnattr_destroy(&attributes);
  int ended = 0;
  if (error == 0) {
    while (waitpid(pid, &ended, 0) < 0 && errno == EINTR) {
    }
  }
  sigaction(SIGINT, &interrupt, nullptr);
  sigaction(SIGQUIT, &quit, nullptr);
  if (error != 0) return NotStarted(command.path, error);
  if (WIFSIGNALED(ended) && WTERMSIG(ended) == SIGINT)
    return absl::CancelledError(fmt::format("{}: interrupted", name));
  if (WIFSIGNALED(ended)) return absl::InternalError(fmt::format("{}: ended by signal {}", name, WTERMSIG(ended)));
  const int code = WEXITSTATUS(ended);
  if (code == static_cast<int>(ExitCode::kUsage)) {
    return absl::InvalidArgumentError(fmt::format("{}: exit code {}", name, code));
  }
  return code == 0 ? absl::OkStatus() : absl::InternalError(fmt::format("{}: exit code {}", name, code));
}

absl::Status BecomeProgram(const Session& session, const std::string& name, std::vector<std::string> arguments) {
  Command command(session, name, std::move(arguments));
  std::fflush(nullptr);
  execv(command.path.c_str(), command.pointers.data());
  return NotStarted(command.path, errno);
}

}  // namespace normlab::cli
