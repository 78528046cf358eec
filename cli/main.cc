// normlab, the command line. Parses, runs one command, turns its status into a message and an exit code.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <system_error>

#include "cli/app.h"
#include "cli/terminal.h"
#include "fmt/format.h"

int main(int argc, char** argv) {
  using namespace normlab::cli;  // NOLINT(build/namespaces)
  Session session;
  std::error_code error;
  session.program_folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  const auto app = MakeApp(session);
  try {
    app->parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help and --version.
    return app->exit(help);
  } catch (const CLI::ParseError& problem) {
    fmt::print(stderr, "normlab: {}\ntry: normlab --help\n", problem.what());
    return static_cast<int>(ExitCode::kUsage);
  }
  const absl::StatusOr<ExitCode> code = session.action();
  std::fflush(stdout);
  if (code.ok()) return static_cast<int>(*code);
  const std::string message(code.status().message());
  if (!absl::IsCancelled(code.status())) {
    fmt::print(stderr, "{} {}\n", Paint("normlab:", Style::kRed, WantsColor(STDERR_FILENO)), message);
  }
  return static_cast<int>(ExitCodeOf(code.status()));
}
