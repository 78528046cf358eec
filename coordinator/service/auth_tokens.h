#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "coordinator/service/auth_rules.h"

// The tokens that the coordinator knows.
//
//   file := {"format": "normlab-tokens-v1", "tokens": [record, ...]}
//   record := {"id": HEX, "name": TEXT, "role": ROLE, "sha256": HEX, "created_by": TEXT, "created_at": TIME
//              [, "expires_at": TIME]}              TIME in RFC 3339
//
// The file has no secrets, only their hashes (common/token.h). Whoever changes it holds a lock on FILE.lock, so that
// the running coordinator and its command line can both do so.
namespace normlab::service {

struct TokenRecord {
  std::string id;
  std::string name;  // Of its owner: what experiments and events show.
  Role role = Role::kViewer;
  std::string sha256;
  std::string created_by;
  absl::Time created_at;
  std::optional<absl::Time> expires_at;
};

/// Who calls. `token_id` is empty if the coordinator asks for no tokens; then the client's word counts.
struct Caller {
  std::string name;
  std::string token_id;
  Role role = Role::kOperator;

  bool is_known() const { return !token_id.empty(); }
};

/// Any thread. What another process writes is seen within a second.
class TokenStore {
 public:
  /// A missing file has no tokens. FAILED_PRECONDITION if the file is damaged. `clock` must outlive the store.
  static absl::StatusOr<std::unique_ptr<TokenStore>> Open(std::filesystem::path file, const Clock& clock);

  struct Created {
    std::string token;  // The only time that it is seen.
    TokenRecord record;
  };
  /// Durable when it returns. INVALID_ARGUMENT for a lifetime that is not positive; RESOURCE_EXHAUSTED past
  /// kTokensMax; UNAVAILABLE if the file cannot be written.
  absl::StatusOr<Created> Create(const std::string& name, Role role, std::optional<absl::Duration> lifetime,
                                 const std::string& created_by);
  /// Lets in who holds `token`, which was made elsewhere; its hash alone is kept. A token that is known already gets
  /// the name and the role. Durable when it returns. INVALID_ARGUMENT if it has not the form of a token; ALREADY_EXISTS
  /// if another one has its id; RESOURCE_EXHAUSTED and UNAVAILABLE as Create.
  absl::StatusOr<TokenRecord> Import(const std::string& token, const std::string& name, Role role,
                                     const std::string& created_by);
  /// Durable when it returns. NOT_FOUND if there is none.
  absl::Status Revoke(const std::string& id);
  /// In order of creation.
  std::vector<TokenRecord> List();

  /// UNAUTHENTICATED, never saying more than that the token is not valid.
  absl::StatusOr<Caller> Authenticate(const std::string& token);
  /// Whether the token of that id would still be accepted.
  bool IsValid(const std::string& id);

 private:
  TokenStore(std::filesystem::path file, const Clock& clock) : file_(std::move(file)), clock_(clock) {}

  using Records = std::map<std::string, TokenRecord>;
  static absl::StatusOr<Records> Read(const std::filesystem::path& file);
  /// Changes the file as it is now, under its lock.
  template <typename Change>
  absl::Status Update(Change change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReloadIfChanged() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const TokenRecord* FindValid(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::filesystem::path file_;
  const Clock& clock_;
  std::mutex mutex_;
  Records records_ ABSL_GUARDED_BY(mutex_);
  std::string stamp_ ABSL_GUARDED_BY(mutex_);
  absl::Time looked_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // Steady time.
};

}  // namespace normlab::service
