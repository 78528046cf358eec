// Where the files of a run lie on this machine, for the commands that hand them to a program of the trainer.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "cli/session.h"

namespace normlab::cli {

struct RunFilesOptions {
  std::string run;                   // "exp-0001.03"; empty if `checkpoint` is given.
  std::filesystem::path checkpoint;  // A checkpoint, or a run's folder of them: no coordinator is asked.
  std::filesystem::path data;        // Empty: the run's dataset below the root.
  std::filesystem::path root = ".normlab";
};

struct RunFiles {
  std::filesystem::path checkpoint;
  std::filesystem::path data;  // Empty if nobody said.
};

/// Adds RUN, --checkpoint, --data and --root.
void AddRunFilesFlags(CLI::App* command, RunFilesOptions* options);

/// Asks the coordinator about the run, unless a folder is given. NOT_FOUND if there is no such run, FAILED_PRECONDITION
/// if it has no checkpoint below the root (yet), INVALID_ARGUMENT if neither or both are given.
absl::StatusOr<RunFiles> FindRunFiles(const RunFilesOptions& options, const Session& session);

/// Runs the program of that name beside this one, with this one's input and output, and waits for its end: OK if it
/// ended with 0. What it has to say it has said: INTERNAL names only its exit code, CANCELLED says that it was
/// interrupted.
absl::Status RunProgram(const Session& session, const std::string& name, std::vector<std::string> arguments);

/// Becomes the program of that name beside this one; returns only if that is not possible.
absl::Status BecomeProgram(const Session& session, const std::string& name, std::vector<std::string> arguments);

}  // namespace normlab::cli
