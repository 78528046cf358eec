#include "cli/dataset_check.h"

#include <array>
#include <fstream>
#include <string>

#include "cli/corpus.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;

absl::Status CheckHash(const fs::path& path, const std::string& expected) {
  NORMLAB_ASSIGN_OR_RETURN(const std::string actual, Sha256OfFile(path));
  if (actual == expected) return absl::OkStatus();
  return absl::DataLossError(
      fmt::format("{} ({} bytes) has SHA-256 {}, the manifest says {}: prepare the dataset again", path.string(),
                  fs::file_size(path), actual, expected));
}

/// Throws DatasetError.
void CheckHeader(const fs::path& path, const ManifestShard& shard, int64_t vocab_size) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, kShardHeaderBytes> bytes{};
  file.read(bytes.data(), bytes.size());
  const ShardHeader header = DecodeShardHeader(bytes.data(), fs::file_size(path), path);
  if (header.num_tokens != static_cast<uint64_t>(shard.tokens) ||
      header.num_documents != static_cast<uint64_t>(shard.documents)) {
    throw DatasetError(fmt::format("{} has {} tokens in {} documents, the manifest says {} in {}", path.string(),
                                   header.num_tokens, header.num_documents, shard.tokens, shard.documents));
  }
  if (header.num_tokens > 0 && header.token_max >= vocab_size) {
    throw DatasetError(
        fmt::format("{} has token {}, the manifest's vocab_size is {}", path.string(), header.token_max, vocab_size));
  }
}

absl::StatusOr<Manifest> CheckOrThrow(const fs::path& folder, const std::function<void(uint64_t)>& on_bytes) {
  Manifest manifest = ReadManifest(folder);
  NORMLAB_RETURN_IF_ERROR(CheckHash(folder / manifest.tokenizer_file, manifest.tokenizer_sha256));
  uint64_t bytes = 0;
  for (const ManifestSplit* split : {&manifest.train, &manifest.validation}) {
    for (const ManifestShard& shard : split->shards) {
      const fs::path path = folder / shard.file;
      // The header first: it says more than a hash what is wrong with a file that was cut off.
      if (fs::exists(path)) CheckHeader(path, shard, manifest.vocab_size);
      NORMLAB_RETURN_IF_ERROR(CheckHash(path, shard.sha256));
      bytes += fs::file_size(path);
      on_bytes(bytes);
    }
  }
  return manifest;
}

}  // namespace

absl::StatusOr<Manifest> CheckDataset(const fs::path& folder, const std::function<void(uint64_t)>& on_bytes) {
  // The manifest's and the shard's code is shared with the trainer and throws; it stops here.
  try {
    return CheckOrThrow(folder, on_bytes);
  } catch (const std::exception& error) {
    return absl::DataLossError(error.what());
  }
}

}  // namespace normlab::cli
