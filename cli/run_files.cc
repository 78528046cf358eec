#include "cli/run_files.h"

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

absl::Status BecomeProgram(const Session& session, const std::string& name, std::vector<std::string> arguments) {
  const std::string path = session.program_folder / name;
  arguments.insert(arguments.begin(), path);
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  std::fflush(nullptr);
  execv(path.c_str(), pointers.data());
  return absl::InternalError(
      fmt::format("cannot start {}: {}; build it with ./dev build", path, std::generic_category().message(errno)));
}

}  // namespace normlab::cli
