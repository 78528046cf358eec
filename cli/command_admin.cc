// normlab admin: tokens, and who one is.
#include <unistd.h>

#include <cmath>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/time/time.h"
#include "cli/commands.h"
#include "cli/format.h"
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

}  // namespace

void AddAdmin(CLI::App& app, Session& session) {
  CLI::App* admin = app.add_subcommand("admin", "Tokens, and who you are");
  admin->require_subcommand(1);
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
