// normlab version: this program's, and the coordinator's if one answers.
#include "cli/commands.h"
#include "common/build_id.h"
#include "common/version.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct VersionOptions {
  bool is_client_only = false;
};

absl::StatusOr<ExitCode> RunVersion(const VersionOptions& options, const Session& session) {
  absl::StatusOr<v1::Info> info = absl::UnavailableError("not asked");
  if (!options.is_client_only) info = session.Connect()->GetInfo();
  if (session.is_json()) {
    fmt::print("{{\"version\": \"{}\", \"build\": \"{}\", \"protocol_version\": {}, \"coordinator\": {}}}\n", kVersion,
               BuildId(), kProtocolVersion, info.ok() ? ToJson(*info, /*is_indented=*/false) : "null");
    return ExitCode::kOk;
  }
  fmt::print("normlab {} (protocol {})\n", BuildId(), kProtocolVersion);
  if (info.ok()) {
    fmt::print("coordinator {} at {} (protocol {}, store {}): {} experiments, {} runs, {} workers, http {}\n",
               info->build().empty() ? info->version() : info->build(), session.server, info->protocol_version(),
               info->schema_version(), info->num_experiments(), info->num_runs(), info->num_workers(),
               info->http_address());
  } else if (!options.is_client_only) {
    session.Hint(fmt::format("no coordinator answers at {}", session.server));
  }
  return ExitCode::kOk;
}

}  // namespace

void AddVersion(CLI::App& app, Session& session) {
  auto options = std::make_shared<VersionOptions>();
  CLI::App* command =
      AddCommand(app, session, "version", "Print the versions of this program and of the coordinator",
                 "  normlab version\n"
                 "  normlab version --client -o json",
                 options, [&session](const VersionOptions& chosen) { return RunVersion(chosen, session); });
  command->add_flag("--client", options->is_client_only, "Do not ask the coordinator");
}

}  // namespace normlab::cli
