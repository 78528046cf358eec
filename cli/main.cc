// normlab, the command line. Parses, runs one command, turns its status into a message and an exit code.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <system_error>

#include "cli/app.h"
#include "cli/terminal.h"
#include "common/suggest.h"
#include "fmt/format.h"

namespace {

/// The parser's message, made better for a mistyped command, with where to look.
std::string ExplainUsage(const CLI::App& app, int argc, char** argv, const std::string& problem) {
  const CLI::App* deepest = &app;
  std::string path = "normlab";
  while (!deepest->get_subcommands().empty()) {
    deepest = deepest->get_subcommands().front();
    path += " " + deepest->get_name();
  }
  std::vector<std::string> names;
  for (const CLI::App* command : deepest->get_subcommands({})) names.push_back(command->get_name());
  // The first word that is no flag, after those that were understood.
  int depth = deepest == &app ? 0 : static_cast<int>(std::count(path.begin(), path.end(), ' '));
  for (int i = 1; i < argc && !names.empty(); ++i) {
    const std::string word = argv[i];
    static const std::set<std::string> kTakeTheNextWord = {"-o",       "--output",   "--server", "--token-file",
                                                           "--tls-ca", "--tls-cert", "--tls-key"};
    if (kTakeTheNextWord.contains(word)) ++i;
    if (word.starts_with("-") || depth-- > 0) continue;
    return fmt::format("unknown command '{} {}'{}\ntry: {} --help", path, word, normlab::DidYouMean(word, names), path);
  }
  return fmt::format("{}\ntry: {} --help", problem, path);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace normlab::cli;  // NOLINT(build/namespaces)
  // gRPC's own lines about failed handshakes and connections; what they mean for the user, the commands say.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  Session session;
  std::error_code error;
  session.program_folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  const auto app = MakeApp(session);
  try {
    app->parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help and --version.
    return app->exit(help);
  } catch (const CLI::ParseError& problem) {
    fmt::print(stderr, "normlab: {}\n", ExplainUsage(*app, argc, argv, problem.what()));
    return static_cast<int>(ExitCode::kUsage);
  }
  const absl::StatusOr<ExitCode> code = session.action();
  std::fflush(stdout);
  if (code.ok()) return static_cast<int>(*code);
  const std::string message(code.status().message());
  if (!absl::IsCancelled(code.status())) {
    // Several problems stand on lines of their own, each starting with its place, as editors expect.
    const bool is_list = message.find('\n') != std::string::npos;
    fmt::print(stderr, "{}{}{}\n", Paint("normlab:", Style::kRed, WantsColor(STDERR_FILENO)), is_list ? "\n" : " ",
               message);
  }
  return static_cast<int>(ExitCodeOf(code.status()));
}
