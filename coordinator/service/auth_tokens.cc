#include "coordinator/service/auth_tokens.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "common/durable_file.h"
#include "common/log.h"
#include "common/status.h"
#include "common/strict_json.h"
#include "common/token.h"
#include "coordinator/service/limits.h"

namespace normlab::service {
namespace {

constexpr char kFormat[] = "normlab-tokens-v1";
constexpr absl::Duration kLookInterval = absl::Seconds(1);
constexpr char kRefused[] =
    "the token is not valid: it is unknown, revoked or expired; ask an operator for one (normlab admin token create)";

std::string ToText(absl::Time time) { return absl::FormatTime(absl::RFC3339_full, time, absl::UTCTimeZone()); }

absl::Time ReadTime(StrictObject& object, const std::string& key) {
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, object.Text(key), &time, &error)) {
    throw JsonError(fmt::format("{}: is no time: {}", object.PathOf(key), error));
  }
  return time;
}

TokenRecord ReadRecord(StrictObject object) {
  TokenRecord record{.id = object.Text("id"), .name = object.Text("name")};
  const auto role = ParseRole(object.Text("role"));
  if (!role) throw JsonError(fmt::format("{}: is no role", object.PathOf("role")));
  record.role = *role;
  record.sha256 = object.Text("sha256");
  record.created_by = object.Text("created_by");
  record.created_at = ReadTime(object, "created_at");
  if (object.Has("expires_at")) record.expires_at = ReadTime(object, "expires_at");
  object.RefuseOthers();
  return record;
}

nlohmann::ordered_json ToJson(const TokenRecord& record) {
  nlohmann::ordered_json json = {{"id", record.id},
                                 {"name", record.name},
                                 {"role", Name(record.role)},
                                 {"sha256", record.sha256},
                                 {"created_by", record.created_by},
                                 {"created_at", ToText(record.created_at)}};
  if (record.expires_at) json["expires_at"] = ToText(*record.expires_at);
  return json;
}

/// Held while the file is changed; another process waits for it.
class FileLock {
 public:
  static absl::StatusOr<std::unique_ptr<FileLock>> Take(const std::filesystem::path& path) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 && flock(fd, LOCK_EX) == 0) return std::unique_ptr<FileLock>(new FileLock(fd));
    const int error = errno;
    if (fd >= 0) close(fd);
    return absl::UnavailableError(
        fmt::format("cannot lock {}: {}", path.string(), std::generic_category().message(error)));
  }
  ~FileLock() { close(fd_); }

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  const int fd_;
};

absl::Status CheckRoom(const std::map<std::string, TokenRecord>& records) {
  if (records.size() < kTokensMax) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("there are {} tokens, at most {} are allowed: revoke some", records.size(), kTokensMax));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenStore>> TokenStore::Open(std::filesystem::path file, const Clock& clock) {
  std::unique_ptr<TokenStore> store(new TokenStore(std::move(file), clock));
  const std::scoped_lock lock(store->mutex_);
  store->stamp_ = FileStamp(store->file_);
  NORMLAB_ASSIGN_OR_RETURN(store->records_, Read(store->file_));
  return store;
}

absl::StatusOr<TokenStore::Records> TokenStore::Read(const std::filesystem::path& file) {
  Records records;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) {
    if (errno == ENOENT) return records;
    return absl::FailedPreconditionError(
        fmt::format("cannot read {}: {}", file.string(), std::generic_category().message(errno)));
  }
  try {
    const nlohmann::json document = nlohmann::json::parse(stream);
    StrictObject object(document, "");
    if (object.Text("format") != kFormat) throw JsonError(fmt::format("format: must be \"{}\"", kFormat));
    for (StrictObject& child : object.Children("tokens")) {
      TokenRecord record = ReadRecord(child);
      records.emplace(record.id, std::move(record));
    }
    object.RefuseOthers();
  } catch (const std::exception& error) {  // The JSON library and StrictObject throw; nothing else here does.
    return absl::FailedPreconditionError(fmt::format(
        "{} is damaged ({}): put a copy back, or remove it and make new tokens", file.string(), error.what()));
  }
  return records;
}

template <typename Change>
absl::Status TokenStore::Update(Change change) {
  NORMLAB_ASSIGN_OR_RETURN(const auto lock, FileLock::Take(file_.string() + ".lock"));
  NORMLAB_ASSIGN_OR_RETURN(Records records, Read(file_));
  NORMLAB_RETURN_IF_ERROR(change(records));
  std::vector<const TokenRecord*> by_age;
  for (const auto& [id, record] : records) by_age.push_back(&record);
  std::stable_sort(by_age.begin(), by_age.end(),
                   [](const auto* a, const auto* b) { return a->created_at < b->created_at; });
  nlohmann::ordered_json document = {{"format", kFormat}, {"tokens", nlohmann::ordered_json::array()}};
  for (const TokenRecord* record : by_age) document["tokens"].push_back(ToJson(*record));
  try {
    WriteFileDurably(file_, document.dump(1) + "\n");
  } catch (const FileError& error) {
    return absl::UnavailableError(error.what());
  }
  records_ = std::move(records);
  stamp_ = FileStamp(file_);
  return absl::OkStatus();
}

absl::StatusOr<TokenStore::Created> TokenStore::Create(const std::string& name, Role role,
                                                       std::optional<absl::Duration> lifetime,
                                                       const std::string& created_by) {
  if (lifetime && *lifetime <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        fmt::format("the lifetime is {}, it must be positive", absl::FormatDuration(*lifetime)));
  }
  const Token token = NewToken();
  const absl::Time now = clock_.Now();
  TokenRecord record{.id = token.id,
                     .name = name,
                     .role = role,
                     .sha256 = HashTokenSecret(token.secret),
                     .created_by = created_by,
                     .created_at = now};
  if (lifetime) record.expires_at = now + *lifetime;
  const std::scoped_lock lock(mutex_);
  NORMLAB_RETURN_IF_ERROR(Update([&record](Records& records) -> absl::Status {
    NORMLAB_RETURN_IF_ERROR(CheckRoom(records));
    records.emplace(record.id, record);
    return absl::OkStatus();
  }));
  return Created{.token = token.ToString(), .record = std::move(record)};
}

absl::StatusOr<TokenRecord> TokenStore::Import(const std::string& text, const std::string& name, Role role,
                                               const std::string& created_by) {
  const auto token = ParseToken(text);
  if (!token) {
    return absl::InvalidArgumentError(
        "not a token: it must be nlt_ID_SECRET, with 12 hex digits as ID and 64 as SECRET, as `token create` makes it");
  }
  TokenRecord record{.id = token->id,
                     .name = name,
                     .role = role,
                     .sha256 = HashTokenSecret(token->secret),
                     .created_by = created_by,
                     .created_at = clock_.Now()};
  const std::scoped_lock lock(mutex_);
  NORMLAB_RETURN_IF_ERROR(Update([&record](Records& records) -> absl::Status {
    const auto known = records.find(record.id);
    if (known != records.end() && known->second.sha256 != record.sha256) {
      return absl::AlreadyExistsError(
          fmt::format("another token has the id {}: revoke it first, or make a new token", record.id));
    }
    if (known != records.end()) record.created_at = known->second.created_at;
    if (known == records.end()) NORMLAB_RETURN_IF_ERROR(CheckRoom(records));
    records[record.id] = record;
    return absl::OkStatus();
  }));
  return record;
}

absl::Status TokenStore::Revoke(const std::string& id) {
  const std::scoped_lock lock(mutex_);
  return Update([&id](Records& records) {
    if (records.erase(id) > 0) return absl::OkStatus();
    return absl::NotFoundError(fmt::format("there is no token with id '{}'; see `normlab admin token list`", id));
  });
}

std::vector<TokenRecord> TokenStore::List() {
  const std::scoped_lock lock(mutex_);
  ReloadIfChanged();
  std::vector<TokenRecord> list;
  for (const auto& [id, record] : records_) list.push_back(record);
  std::stable_sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.created_at < b.created_at; });
  return list;
}

absl::StatusOr<Caller> TokenStore::Authenticate(const std::string& text) {
  const auto token = ParseToken(text);
  if (!token) return absl::UnauthenticatedError(kRefused);
  const std::scoped_lock lock(mutex_);
  ReloadIfChanged();
  const TokenRecord* record = FindValid(token->id);
  if (record == nullptr || !MatchesTokenHash(token->secret, record->sha256)) {
    return absl::UnauthenticatedError(kRefused);
  }
  return Caller{.name = record->name, .token_id = record->id, .role = record->role};
}

bool TokenStore::IsValid(const std::string& id) {
  const std::scoped_lock lock(mutex_);
  ReloadIfChanged();
  return FindValid(id) != nullptr;
}

const TokenRecord* TokenStore::FindValid(const std::string& id) {
  const auto found = records_.find(id);
  if (found == records_.end()) return nullptr;
  const bool is_over = found->second.expires_at && clock_.Now() >= *found->second.expires_at;
  return is_over ? nullptr : &found->second;
}

void TokenStore::ReloadIfChanged() {
  const absl::Time now = clock_.SteadyNow();
  if (now - looked_at_ < kLookInterval) return;
  looked_at_ = now;
  const std::string stamp = FileStamp(file_);
  if (stamp == stamp_) return;
  auto records = Read(file_);
  if (!records.ok()) {
    // Who is in stays in, and nobody else: a torn file must not lock the operators out.
    spdlog::error("tokens: {}; the ones from before stay", std::string(records.status().message()));
    return;
  }
  stamp_ = stamp;
  records_ = *std::move(records);
  spdlog::info("tokens: {} read from {}", records_.size(), file_.string());
}

}  // namespace normlab::service
