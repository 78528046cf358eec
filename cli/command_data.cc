// normlab data prepare: text becomes a dataset. The work is done by normlab-prepare, which says why.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "cli/commands.h"
#include "cli/prepare_flags.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

/// Becomes normlab-prepare; returns only if that is not possible.
absl::StatusOr<ExitCode> RunPrepare(const PrepareOptions& options, const Session& session) {
  std::vector<std::string> arguments = {session.program_folder / "normlab-prepare"};
  if (session.is_json()) arguments.push_back("--json");
  for (std::string& flag : ToFlags(options)) arguments.push_back(std::move(flag));
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  std::fflush(nullptr);
  execv(pointers[0], pointers.data());
  return absl::InternalError(fmt::format("cannot start {}: {}; build it with ./dev build", arguments[0],
                                         std::generic_category().message(errno)));
}

}  // namespace

void AddData(CLI::App& app, Session& session) {
  CLI::App* data = app.add_subcommand("data", "Datasets");
  data->require_subcommand(1);
  data->footer("Examples:\n  normlab data prepare --out .normlab/data/docs docs/");
  auto options = std::make_shared<PrepareOptions>();
  CLI::App* command = AddCommand(*data, session, "prepare", kPrepareDescription, kPrepareExamples, options,
                                 [&session](const PrepareOptions& chosen) { return RunPrepare(chosen, session); });
  AddPrepareFlags(command, options.get());
}

}  // namespace normlab::cli
