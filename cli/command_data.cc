// normlab data: prepare makes a dataset of text (the work is done by normlab-prepare, which says why), check reads one.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <system_error>

#include "cli/commands.h"
#include "cli/dataset_check.h"
#include "cli/prepare_flags.h"
#include "cli/progress_line.h"
#include "cli/units.h"
#include "common/status.h"
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

struct CheckOptions {
  std::string folder;
};

absl::StatusOr<ExitCode> RunCheck(const CheckOptions& options, const Session& session) {
  ProgressLine progress("checking", session.is_json());
  const auto on_bytes = [&](uint64_t bytes) { progress.Update(0, BytesText(static_cast<int64_t>(bytes))); };
  NORMLAB_ASSIGN_OR_RETURN(const Manifest manifest, CheckDataset(options.folder, on_bytes));
  progress.Finish();
  const size_t num_shards = manifest.train.shards.size() + manifest.validation.shards.size();
  if (session.is_json()) {
    fmt::print("{}\n", nlohmann::ordered_json({{"folder", options.folder},
                                               {"shards", num_shards},
                                               {"train_tokens", manifest.train.tokens},
                                               {"validation_tokens", manifest.validation.tokens}})
                           .dump(2));
  } else {
    fmt::print("{} shard(s), {} training and {} validation tokens: every hash is the manifest's\n", num_shards,
               manifest.train.tokens, manifest.validation.tokens);
  }
  return ExitCode::kOk;
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

  auto checked = std::make_shared<CheckOptions>();
  AddCommand(*data, session, "check", "Compare every byte of a dataset with its manifest",
             "  normlab data check .normlab/data/kernel-docs", checked,
             [&session](const CheckOptions& chosen) { return RunCheck(chosen, session); })
      ->add_option("folder", checked->folder, "Folder made by normlab data prepare")
      ->required()
      ->type_name("DIR");
}

}  // namespace normlab::cli
