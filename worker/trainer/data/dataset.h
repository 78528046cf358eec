#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/token_shard.h"

namespace normlab::trainer {

/// Half-open range of a list.
struct IndexRange {
  int64_t begin;
  int64_t end;
};

/// One shard mapped into memory. Opening reads only its header; each block's checksum is verified when the block is
/// first read. One thread.
class MappedShard {
 public:
  /// Throws DatasetError if the file is missing, truncated or no shard.
  explicit MappedShard(const std::filesystem::path& path);
  MappedShard(const MappedShard&) = delete;
  MappedShard& operator=(const MappedShard&) = delete;
  ~MappedShard();

  /// Copies the tokens from `first` on, and into `is_target`, which is as long, whether each is one to predict. Throws
  /// DatasetError that names the file, the block and its byte offset if a byte was changed.
  void Read(uint64_t first, std::span<int64_t> tokens, std::span<uint8_t> is_target);

  /// Where document `document` (0-based) lies among the shard's tokens. Throws as Read does.
  IndexRange Document(uint64_t document);

  /// Verifies the checksums of all blocks that were not read yet, until `is_time_over` says true; it is asked between
  /// blocks. Throws as Read does.
  void Verify(const std::function<bool()>& is_time_over);

  const ShardHeader& header() const { return header_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  void VerifyBytes(uint64_t offset, uint64_t size);
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
  /// Opens all shards. `name` ("train") is for messages. Throws DatasetError if a shard is missing, damaged, does not
  /// hold what the manifest says or has a token that is not below `vocab_size`.
  TokenSplit(const std::filesystem::path& folder, std::string name, const ManifestSplit& split, int64_t vocab_size);

  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_documents() const { return num_documents_; }
  const std::string& name() const { return name_; }

  /// Copies tokens `first` and the following ones, across shards; `is_target` as in MappedShard::Read.
  void Read(int64_t first, std::span<int64_t> tokens, std::span<uint8_t> is_target);

  /// Where a document lies among the split's tokens.
  IndexRange Document(int64_t document);

  /// As MappedShard::Verify, shard after shard.
  void Verify(const std::function<bool()>& is_time_over);

 private:
  std::string name_;
  std::vector<std::unique_ptr<MappedShard>> shards_;
  // Of the split up to and with each shard.
  std::vector<int64_t> token_ends_;
  std::vector<int64_t> document_ends_;
  int64_t num_tokens_ = 0;
  int64_t num_documents_ = 0;
};

}  // namespace normlab::trainer
