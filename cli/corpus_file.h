// One file of a corpus as a stream of unpacked bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "absl/status/statusor.h"

namespace normlab::cli {

/// Unpacks by the file's name: .gz (all members), .zst (all frames), anything else as it is. One thread.
class CorpusStream {
 public:
  /// PERMISSION_DENIED or INVALID_ARGUMENT naming the file.
  static absl::StatusOr<std::unique_ptr<CorpusStream>> Open(const std::filesystem::path& path);
  virtual ~CorpusStream() = default;

  /// Fills `buffer` from its start and returns how much; 0 at the end. DATA_LOSS naming the file and the byte on disk
  /// where it is damaged or cut off.
  virtual absl::StatusOr<size_t> Read(std::span<char> buffer) = 0;

  /// Bytes of the file on disk that were used so far.
  virtual uint64_t position() const = 0;
};

/// As it lies on disk, whatever its name.
absl::StatusOr<std::unique_ptr<CorpusStream>> OpenPacked(const std::filesystem::path& path);

/// "cannot read X: ..." with the code that fits.
absl::Status FileProblem(const std::filesystem::path& path, const std::error_code& error);

}  // namespace normlab::cli
