// normlab export: a run's model for other programs. The work is done by normlab-export.
#include "cli/commands.h"
#include "cli/run_files.h"
#include "common/status.h"

namespace normlab::cli {
namespace {

struct ExportOptions {
  RunFilesOptions files;
  std::string format = "hf";
  std::string out;
  bool replaces = false;
};

absl::StatusOr<ExitCode> RunExport(const ExportOptions& options, const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(const RunFiles files, FindRunFiles(options.files, session));
  std::vector<std::string> arguments = {"--checkpoint", files.checkpoint.string(), "--out", options.out};
  if (!files.data.empty()) arguments.insert(arguments.end(), {"--data", files.data.string()});
  if (options.replaces) arguments.push_back("--force");
  if (session.is_json()) arguments.push_back("--json");
  return BecomeProgram(session, "normlab-export", std::move(arguments));
}

}  // namespace

void AddExport(CLI::App& app, Session& session) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* command = AddCommand(
      app, session, "export", "Make a folder that the transformers library loads, from a run's newest checkpoint",
      "  normlab export exp-0001.03 --out exports/lns\n"
      "  normlab export --checkpoint .normlab/checkpoints/exp-0001.03 --data .normlab/data/docs --out exports/lns",
      options, [&session](const ExportOptions& chosen) { return RunExport(chosen, session); });
  AddRunFilesFlags(command, &options->files);
  command->add_option("--format", options->format, "hf: config.json, safetensors and tokenizer, as on Hugging Face")
      ->check(CLI::IsMember({"hf"}))
      ->capture_default_str();
  command->add_option("-o,--out", options->out, "Folder to make")->required()->type_name("DIR");
  command->add_flag("--force", options->replaces, "Replace an export that is there");
}

}  // namespace normlab::cli
