#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace normlab::trainer {

/// SHA-256 of bytes given in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void Update(const void* data, size_t size);
  /// 64 lower-case hex digits. Call once.
  std::string Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string Sha256Of(std::string_view text);

struct FileDigest {
  uint64_t bytes = 0;
  std::string sha256;
};

/// Reads the whole file. Throws FileError if it cannot.
FileDigest DigestFile(const std::filesystem::path& path);

}  // namespace normlab::trainer
