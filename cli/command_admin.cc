// normlab admin: backups, tokens, and who one is.
#include <unistd.h>

#include <cmath>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/time/time.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/progress_line.h"
#include "cli/units.h"
#include "common/status.h"
#include "common/token.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct NoOptions {};

struct CreateOptions {
  std::string name;
  std::string role;
  std::optional<double> days;
  std::string out;
};

struct RevokeOptions {
  std::string id;
};

struct VerifyOptions {
  std::string name;
};

std::string RoleText(v1::Role role) { return absl::AsciiStrToLower(v1::Role_Name(role)); }

std::string DayText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d", FromProto(time), absl::LocalTimeZone());
}

absl::StatusOr<ExitCode> RunCreate(const CreateOptions& options, const Session& session) {
  v1::CreateTokenRequest request;
  request.set_name(options.name);
  v1::Role role;
  v1::Role_Parse(absl::AsciiStrToUpper(options.role), &role);  // The flag takes nothing else.
  request.set_role(role);
  if (options.days) request.mutable_lifetime()->set_seconds(std::llround(*options.days * 86400));
  NORMLAB_ASSIGN_OR_RETURN(auto response, session.Connect()->CreateToken(request));
  if (!options.out.empty()) {
    if (const absl::Status written = WriteTokenFile(options.out, response.token()); !written.ok()) {
      v1::RevokeTokenRequest revoke;  // Nobody has it.
      revoke.set_id(response.info().id());
      NORMLAB_RETURN_IF_ERROR(session.Connect()->RevokeToken(revoke).status());
      return written;
    }
    response.clear_token();
  }
  if (session.is_json()) {
    fmt::print("{}", ToJson(response));
    return ExitCode::kOk;
  }
  fmt::print("{}\n", options.out.empty()
                         ? response.token()
                         : fmt::format("token {} of {} is in {}", response.info().id(), options.name, options.out));
  session.Hint(
      fmt::format("it is not shown again; use it with --token-file FILE or NORMLAB_TOKEN_FILE; end it with: "
                  "normlab admin token revoke {}",
                  response.info().id()));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RunList(const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(const auto response, session.Connect()->ListTokens());
  if (session.is_json()) {
    fmt::print("{}", ToJson(response));
    return ExitCode::kOk;
  }
  Table table({{"ID"}, {"OWNER"}, {"ROLE"}, {"MADE"}, {"BY"}, {"EXPIRES"}});
  for (const v1::TokenInfo& token : response.tokens()) {
    table.AddRow({token.id(), token.name(), RoleText(token.role()), DayText(token.created_at()), token.created_by(),
                  token.has_expires_at() ? DayText(token.expires_at()) : "never"});
  }
  fmt::print("{}", table.Render(WantsColor(STDOUT_FILENO)));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RunRevoke(const RevokeOptions& options, const Session& session) {
  v1::RevokeTokenRequest request;
  request.set_id(options.id);
  NORMLAB_ASSIGN_OR_RETURN(const auto response, session.Connect()->RevokeToken(request));
  fmt::print("{}", session.is_json() ? ToJson(response) : fmt::format("token {} is revoked\n", options.id));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RunWhoAmI(const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(const auto response, session.Connect()->WhoAmI());
  if (session.is_json()) {
    fmt::print("{}", ToJson(response));
  } else if (response.token_id().empty()) {
    fmt::print("{} asks for no tokens: everybody may do everything\n", session.server);
  } else {
    fmt::print("{} ({}, token {})\n", response.name(), RoleText(response.role()), response.token_id());
  }
  return ExitCode::kOk;
}

/// Shows how far the work is on stderr.
Client::OnBackupProgress ShowOn(ProgressLine& line) {
  return [&line](const v1::BackupProgress& progress) {
    const double total = static_cast<double>(progress.bytes_total());
    const double done = static_cast<double>(progress.bytes_done());
    line.Update(total > 0 ? done / total : 1,
                fmt::format("{} of {}", BytesText(progress.bytes_done()), BytesText(progress.bytes_total())));
  };
}

std::string BackupText(const v1::Backup& backup) {
  return fmt::format("{}: {} runs of {} experiments at revision {}, {} in {} files", backup.name(), backup.num_runs(),
                     backup.num_experiments(), backup.revision(), BytesText(backup.bytes()), backup.num_files());
}

absl::StatusOr<ExitCode> RunBackupCreate(const Session& session) {
  v1::CreateBackupRequest request;
  request.set_actor(UserName());
  ProgressLine line("backup", session.is_json());
  NORMLAB_ASSIGN_OR_RETURN(const v1::Backup backup, session.Connect()->CreateBackup(request, ShowOn(line)));
  line.Finish();
  if (session.is_json()) {
    fmt::print("{}", ToJson(backup));
    return ExitCode::kOk;
  }
  fmt::print("{}\n", BackupText(backup));
  session.Hint(
      fmt::format("on the coordinator's host: normlab-coordinator --data DIR restore --from {}", backup.path()));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RunBackupList(const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(const auto response, session.Connect()->ListBackups());
  if (session.is_json()) {
    fmt::print("{}", ToJson(response));
    return ExitCode::kOk;
  }
  Table table({{"NAME"}, {"MADE"}, {"RUNS", Align::kRight}, {"SIZE", Align::kRight}, {"PATH"}});
  for (const v1::Backup& backup : response.backups()) {
    table.AddRow({backup.name(), TimeText(backup.created_at()), fmt::format("{}", backup.num_runs()),
                  BytesText(backup.bytes()), backup.path()});
  }
  fmt::print("{}", table.Render(WantsColor(STDOUT_FILENO)));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RunBackupVerify(const VerifyOptions& options, const Session& session) {
  v1::VerifyBackupRequest request;
  request.set_name(options.name);
  ProgressLine line("check", session.is_json());
  NORMLAB_ASSIGN_OR_RETURN(const v1::Backup backup, session.Connect()->VerifyBackup(request, ShowOn(line)));
  line.Finish();
  fmt::print("{}", session.is_json() ? ToJson(backup) : BackupText(backup) + "; it is whole\n");
  return ExitCode::kOk;
}

void AddBackup(CLI::App& admin, Session& session) {
  CLI::App* backup = admin.add_subcommand("backup", "Make, list and check backups of the coordinator's database");
  backup->require_subcommand(1);
  AddCommand(*backup, session, "create", "Back up everything acknowledged so far; the coordinator goes on meanwhile",
             "  normlab admin backup create", std::make_shared<NoOptions>(),
             [&session](const NoOptions&) { return RunBackupCreate(session); });
  AddCommand(*backup, session, "list", "List whole backups, the newest first", "  normlab admin backup list",
             std::make_shared<NoOptions>(), [&session](const NoOptions&) { return RunBackupList(session); });
  auto verify = std::make_shared<VerifyOptions>();
  CLI::App* command = AddCommand(*backup, session, "verify", "Read a backup and say whether it is whole",
                                 "  normlab admin backup verify backup-20261124T135612.345Z", verify,
                                 [&session](const VerifyOptions& chosen) { return RunBackupVerify(chosen, session); });
  command->add_option("name", verify->name, "As `normlab admin backup list` shows it")->required()->type_name("NAME");
}

}  // namespace

void AddAdmin(CLI::App& app, Session& session) {
  CLI::App* admin = app.add_subcommand("admin", "Backups, tokens, and who you are");
  admin->require_subcommand(1);
  AddBackup(*admin, session);
  AddCommand(*admin, session, "whoami", "Say whose token is used, and its role", "  normlab admin whoami",
             std::make_shared<NoOptions>(), [&session](const NoOptions&) { return RunWhoAmI(session); });
  CLI::App* token = admin->add_subcommand("token", "Make, list and revoke tokens");
  token->require_subcommand(1);

  auto create = std::make_shared<CreateOptions>();
  CLI::App* command =
      AddCommand(*token, session, "create", "Make a token; it is shown once",
                 "  normlab admin token create --name ada --role submitter --out ada.token\n"
                 "  normlab admin token create --name pool --role worker --days 90",
                 create, [&session](const CreateOptions& chosen) { return RunCreate(chosen, session); });
  command->add_option("--name", create->name, "Its owner, as experiments show it")->required()->type_name("NAME");
  command
      ->add_option("--role", create->role,
                   "viewer looks, submitter submits and changes its own runs, operator may "
                   "all, worker holds a worker's session")
      ->required()
      ->check(CLI::IsMember({"viewer", "submitter", "operator", "worker"}))
      ->type_name("ROLE");
  command->add_option("--days", create->days, "Days until it is refused; without it: until it is revoked")
      ->check(CLI::Range(0.0001, 36500.0))
      ->type_name("N");
  command->add_option("--out", create->out, "New file for the token, readable by you alone")->type_name("FILE");

  AddCommand(*token, session, "list", "List tokens, without their secrets", "  normlab admin token list",
             std::make_shared<NoOptions>(), [&session](const NoOptions&) { return RunList(session); });

  auto revoke = std::make_shared<RevokeOptions>();
  command = AddCommand(*token, session, "revoke", "Refuse a token from now on, and end its streams",
                       "  normlab admin token revoke 0a1b2c3d4e5f", revoke,
                       [&session](const RevokeOptions& chosen) { return RunRevoke(chosen, session); });
  command->add_option("id", revoke->id, "As `normlab admin token list` shows it")->required()->type_name("ID");
}

}  // namespace normlab::cli
