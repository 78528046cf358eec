#include "coordinator/token_command.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <system_error>

#include "common/clock.h"
#include "common/status.h"
#include "common/token.h"
#include "coordinator/service/auth_tokens.h"

namespace normlab {
namespace {

constexpr char kMadeBy[] = "normlab-coordinator";

struct TokenFlags {
  std::string name;
  std::string role;
  std::optional<double> days;
  std::string out;
  std::string from;
  std::string id;
};

absl::StatusOr<std::unique_ptr<service::TokenStore>> OpenTokens(const std::string& data_folder, const Clock& clock) {
  std::error_code error;
  std::filesystem::create_directories(data_folder, error);
  if (error) {
    return absl::FailedPreconditionError(fmt::format("cannot create --data {}: {}", data_folder, error.message()));
  }
  return service::TokenStore::Open(TokensFile(data_folder), clock);
}

absl::Status CreateToken(const std::string& data_folder, const TokenFlags& flags) {
  const RealClock clock;
  NORMLAB_ASSIGN_OR_RETURN(const auto tokens, OpenTokens(data_folder, clock));
  std::optional<absl::Duration> lifetime;
  if (flags.days) lifetime = absl::Hours(24) * *flags.days;
  NORMLAB_ASSIGN_OR_RETURN(const auto created,
                           tokens->Create(flags.name, *service::ParseRole(flags.role), lifetime, kMadeBy));
  if (flags.out.empty()) {
    fmt::print("{}\n", created.token);
    return absl::OkStatus();
  }
  const absl::Status written = WriteTokenFile(flags.out, created.token);
  // A token that nobody has is of no use.
  if (!written.ok()) NORMLAB_RETURN_IF_ERROR(tokens->Revoke(created.record.id));
  return written;
}

absl::Status ImportToken(const std::string& data_folder, const TokenFlags& flags) {
  NORMLAB_ASSIGN_OR_RETURN(const std::string token, ReadTokenFile(flags.from));
  const RealClock clock;
  NORMLAB_ASSIGN_OR_RETURN(const auto tokens, OpenTokens(data_folder, clock));
  NORMLAB_ASSIGN_OR_RETURN(const auto record,
                           tokens->Import(token, flags.name, *service::ParseRole(flags.role), kMadeBy));
  fmt::print("{} {} {}\n", record.id, service::Name(record.role), record.name);
  return absl::OkStatus();
}

absl::Status ListTokens(const std::string& data_folder) {
  const RealClock clock;
  NORMLAB_ASSIGN_OR_RETURN(const auto tokens, OpenTokens(data_folder, clock));
  for (const service::TokenRecord& record : tokens->List()) {
    fmt::print("{} {} {} made {} by {}{}\n", record.id, service::Name(record.role), record.name,
               absl::FormatTime("%Y-%m-%d", record.created_at, absl::UTCTimeZone()), record.created_by,
               record.expires_at
                   ? " expires " + absl::FormatTime("%Y-%m-%d %H:%M UTC", *record.expires_at, absl::UTCTimeZone())
                   : "");
  }
  return absl::OkStatus();
}

absl::Status RevokeToken(const std::string& data_folder, const std::string& id) {
  const RealClock clock;
  NORMLAB_ASSIGN_OR_RETURN(const auto tokens, OpenTokens(data_folder, clock));
  return tokens->Revoke(id);
}

void AddOwner(CLI::App& command, TokenFlags& flags) {
  command.add_option("--name", flags.name, "Its owner")->required()->check([](const std::string& name) {
    const bool is_good = !name.empty() && name.size() <= 128 &&
                         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 127; });
    return is_good ? "" : "must have 1 to 128 printable ASCII characters without blanks";
  });
  command.add_option("--role", flags.role, "viewer, submitter, operator or worker")
      ->required()
      ->check(CLI::IsMember({"viewer", "submitter", "operator", "worker"}));
}

}  // namespace

std::string TokensFile(const std::string& data_folder) {
  return (std::filesystem::path(data_folder) / "tokens.json").string();
}

void AddTokenCommand(CLI::App& app, const std::string& data_folder, std::function<absl::Status()>& action) {
  auto flags = std::make_shared<TokenFlags>();
  CLI::App* token = app.add_subcommand("token", "Make, import, list or revoke tokens in the data folder");
  token->require_subcommand(1);
  token->footer(
      "Example, the first token of a new coordinator:\n"
      "  normlab-coordinator --data DIR token create --name ada --role operator --out ada.token");

  CLI::App* create = token->add_subcommand("create", "Make a token; printed once, only its hash is kept");
  AddOwner(*create, *flags);
  create->add_option("--days", flags->days, "Days until it is refused; without it: never");
  create->add_option("--out", flags->out, "New file for the token, instead of stdout")->type_name("FILE");
  create->callback(
      [&action, &data_folder, flags] { action = [&data_folder, flags] { return CreateToken(data_folder, *flags); }; });

  CLI::App* import = token->add_subcommand(
      "import", "Let in a token that was made elsewhere, such as one in a secret store; may be repeated");
  AddOwner(*import, *flags);
  import->add_option("--from", flags->from, "File that holds the token; only its hash is kept")
      ->required()
      ->type_name("FILE");
  import->callback(
      [&action, &data_folder, flags] { action = [&data_folder, flags] { return ImportToken(data_folder, *flags);
};
}  // namespace normlab
);

CLI::App* list = token->add_subcommand("list", "List tokens: id, role, owner");
list->callback([&action, &data_folder] { action = [&data_folder] { return ListTokens(data_folder); }; });

CLI::App* revoke = token->add_subcommand("revoke", "Refuse a token from now on");
revoke->add_option("id", flags->id, "The token's id, as list shows it")->required();
revoke->callback([&action, &data_folder, flags] {
  action = [&data_folder, flags] { return RevokeToken(data_folder, flags->id); };
});
}

}  // namespace normlab
