// Bearer tokens: how they look, how they are made, and what is kept of them.
//
//   token := "nlt_" ID "_" SECRET      ID 12 hex digits, SECRET 64 hex digits: 256 random bits
//
// Only SHA-256 of SECRET is stored. A slow password hash would add nothing: it makes guessing words expensive, and
// there is no guessing 256 random bits. ID names the record, so that a token is found without comparing secrets.
#pragma once

#include <filesystem>
#include <mutex>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"

namespace normlab {

struct Token {
  std::string id;
  std::string secret;

  /// What the user keeps. Never to be logged.
  std::string ToString() const { return "nlt_" + id + "_" + secret; }
};

/// A new token from the system's random source.
Token NewToken();

/// nullopt for anything that has not exactly the form above.
std::optional<Token> ParseToken(const std::string& text);

/// SHA-256 of the secret in lower-case hex.
std::string HashTokenSecret(const std::string& secret);

/// Whether `secret` is the one behind `hash`. Takes the same time whatever differs.
bool MatchesTokenHash(const std::string& secret, const std::string& hash);

/// The token in the file at `path`, without the blanks around it. NOT_FOUND or PERMISSION_DENIED if it cannot be read,
/// INVALID_ARGUMENT if it holds no token. No message has anything of the content.
absl::StatusOr<std::string> ReadTokenFile(const std::filesystem::path& path);

/// Creates a file that only its owner may read. ALREADY_EXISTS if there is one.
absl::Status WriteTokenFile(const std::filesystem::path& path, const std::string& token);

/// A token file that is read again when it changes, so that a token is replaced without a restart. Any thread.
class TokenFile {
 public:
  explicit TokenFile(std::filesystem::path path) : path_(std::move(path)) {}

  /// As ReadTokenFile.
  absl::StatusOr<std::string> Get();

 private:
  const std::filesystem::path path_;
  std::mutex mutex_;
  std::string stamp_ ABSL_GUARDED_BY(mutex_);  // Of the content in token_.
  std::string token_ ABSL_GUARDED_BY(mutex_);
};

/// What changes when the file at `path` does: inode, size and time in one text. Empty if there is none.
std::string FileStamp(const std::filesystem::path& path);

}  // namespace normlab
