#include "common/token.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <system_error>

#include "common/status.h"
#include "fmt/format.h"

namespace normlab {
namespace {

constexpr size_t kIdBytes = 6;
constexpr size_t kSecretBytes = 32;
constexpr char kPrefix[] = "nlt_";
constexpr size_t kPrefixSize = sizeof(kPrefix) - 1;
// Anything longer is some other file, given by mistake.
constexpr size_t kFileBytesMax = 4096;

std::string ToHex(const unsigned char* bytes, size_t size) {
  std::string hex;
  for (size_t i = 0; i < size; ++i) hex += fmt::format("{:02x}", bytes[i]);
  return hex;
}

template <size_t size>
std::string RandomHex() {
  std::array<unsigned char, size> bytes;
  // Fails only if the system has no random source at all; a token must not be made then.
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) std::abort();
  return ToHex(bytes.data(), bytes.size());
}

bool IsHex(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

absl::Status OpenError(const std::filesystem::path& path, int error) {
  const std::string message =
      fmt::format("cannot read the token file {}: {}", path.string(), std::generic_category().message(error));
  return error == EACCES ? absl::PermissionDeniedError(message) : absl::NotFoundError(message);
}

}  // namespace

Token NewToken() { return {.id = RandomHex<kIdBytes>(), .secret = RandomHex<kSecretBytes>()}; }

std::optional<Token> ParseToken(const std::string& text) {
  constexpr size_t kIdSize = 2 * kIdBytes, kSecretSize = 2 * kSecretBytes;
  if (text.size() != kPrefixSize + kIdSize + 1 + kSecretSize || !text.starts_with(kPrefix) ||
      text[kPrefixSize + kIdSize] != '_') {
    return std::nullopt;
  }
  Token token{.id = text.substr(kPrefixSize, kIdSize), .secret = text.substr(kPrefixSize + kIdSize + 1)};
  if (!IsHex(token.id) || !IsHex(token.secret)) return std::nullopt;
  return token;
}

std::string HashTokenSecret(const std::string& secret) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(secret.data()), secret.size(), digest.data());
  return ToHex(digest.data(), digest.size());
}

bool MatchesTokenHash(const std::string& secret, const std::string& hash) {
  const std::string given = HashTokenSecret(secret);
  return given.size() == hash.size() && CRYPTO_memcmp(given.data(), hash.data(), hash.size()) == 0;
}

absl::StatusOr<std::string> ReadTokenFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return OpenError(path, errno);
  std::string text(kFileBytesMax, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return OpenError(path, errno);
  text.resize(static_cast<size_t>(file.gcount()));
  constexpr char kBlanks[] = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlanks);
  text = first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
  if (ParseToken(text)) return text;
  return absl::InvalidArgumentError(
      fmt::format("the token file {} holds no token ({} bytes; a token is nlt_, 12 hex digits, _, 64 hex digits); make "
                  "one with `normlab admin token create`",
                  path.string(), text.size()));
}

absl::Status WriteTokenFile(const std::filesystem::path& path, const std::string& token) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) {
    const int error = errno;
    const std::string message =
        fmt::format("cannot create {}: {}", path.string(), std::generic_category().message(error));
    return error == EEXIST ? absl::AlreadyExistsError(message) : absl::UnavailableError(message);
  }
  const std::string text = token + "\n";
  const bool is_written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && fsync(fd) == 0;
  const int error = errno;
  close(fd);
  if (is_written) return absl::OkStatus();
  unlink(path.c_str());
  return absl::UnavailableError(
      fmt::format("cannot write {}: {}", path.string(), std::generic_category().message(error)));
}

absl::StatusOr<std::string> TokenFile::Get() {
  const std::scoped_lock lock(mutex_);
  const std::string stamp = FileStamp(path_);
  if (stamp.empty() || stamp != stamp_) {
    NORMLAB_ASSIGN_OR_RETURN(token_, ReadTokenFile(path_));
    stamp_ = stamp;
  }
  return token_;
}

std::string FileStamp(const std::filesystem::path& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return "";
  return fmt::format("{}:{}:{}.{}", info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
}

}  // namespace normlab
