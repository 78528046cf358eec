#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/token_shard.h"

namespace normlab::trainer {

/// One shard mapped into memory. Opening reads only its header; each block's checksum is verified when the block is
/// first read. One thread.
class MappedShard {
 public:
  /// Throws DatasetError if the file is missing, truncated or no shard.
  explicit MappedShard(const std::filesystem::path& path);
  MappedShard(const MappedShard&) = delete;
  MappedShard& operator=(const MappedShard&) = delete;
  ~MappedShard();

  /// Copies the tokens from `first` on. Throws DatasetError that names the file, the block and its byte offset if a
  /// byte was changed.
  void Read(uint64_t first, std::span<int64_t> tokens);

  const ShardHeader& header() const { return header_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  void VerifyBlock(uint64_t block);

  std::filesystem::path path_;
  const char* bytes_ = nullptr;
  uint64_t file_bytes_ = 0;
  ShardHeader header_;
  std::vector<bool> is_verified_;
};

/// The tokens of one split, its shards one after another. One thread.
class TokenSplit {
 public:
  /// Opens all shards. `name` ("train") is for messages. Throws DatasetError if a shard is missing, damaged or does not
  /// have the tokens that the manifest says.
  TokenSplit(const std::filesystem::path& folder, std::string name, const ManifestSplit& split);

  int64_t num_tokens() const { return num_tokens_; }

  /// Windows of seq_len + 1 tokens that start every seq_len tokens: each token but the split's first is predicted at
  /// most once. The rest that does not fill a window is not used.
  int64_t NumWindows(int64_t seq_len) const { return num_tokens_ == 0 ? 0 : (num_tokens_ - 1) / seq_len; }

  /// Copies window `window` (0-based) into `tokens`, which has seq_len + 1 places.
  void ReadWindow(int64_t window, std::span<int64_t> tokens);

  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::vector<std::unique_ptr<MappedShard>> shards_;
  std::vector<int64_t> shard_ends_;  // Tokens of the split up to and with each shard.
  int64_t num_tokens_ = 0;
};

}  // namespace normlab::trainer
