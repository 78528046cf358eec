// normlab completion: scripts for shells.
#include "cli/commands.h"
#include "cli/completion.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct CompletionOptions {
  std::string shell;
};

}  // namespace

void AddCompletion(CLI::App& app, Session& session) {
  auto options = std::make_shared<CompletionOptions>();
  CLI::App* command = AddCommand(app, session, "completion", "Print a completion script for your shell",
                                 "  source <(normlab completion bash)\n"
                                 "  source <(normlab completion zsh)\n"
                                 "  normlab completion fish | source",
                                 options, [&app](const CompletionOptions& chosen) -> absl::StatusOr<ExitCode> {
                                   fmt::print("{}", CompletionScript(app, chosen.shell));
                                   return ExitCode::kOk;
                                 });
  command->add_option("shell", options->shell, "bash, zsh or fish")
      ->required()
      ->type_name("SHELL")
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
}

}  // namespace normlab::cli
