#pragma once

#include <fmt/format.h>
#include <zlib.h>

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "common/durable_file.h"
#include "common/strict_json.h"

// A dataset of tokens on disk. `normlab data prepare` writes it, the trainer maps it into memory.
//
//   dataset    := folder with manifest.json, the tokenizer's file and the shards it names
//   manifest   := {"format": "normlab-tokens-v1", "vocab_size": N, "eos_id": N,
//                  "tokenizer": {"file": NAME, "sha256": HEX},
//                  "splits": {"train": split, "validation": split}}
//   split      := {"tokens": N, "documents": N, "shards": [{"file": NAME, "tokens": N}, ...]}
//
//   shard      := header tokens checksums           all numbers little-endian
//   header     := magic     8 bytes  "NLTOKENS"
//                 version      u32   1
//                 token_bytes  u32   2 or 4
//                 num_tokens   u64
//                 block_tokens u64   tokens per block; the last block may be shorter
//                 reserved  28 bytes 0
//                 crc          u32   CRC-32 (zlib) of the 60 bytes before
//   tokens     := num_tokens * token_bytes
//   checksums  := one u32 per block, CRC-32 of the block's bytes
//
// A shard's size follows from its header, so a truncated one is found when it is opened; a changed byte is found by its
// block's checksum. A split is the shards' tokens one after another, each document ending in eos_id.
namespace normlab {

static_assert(std::endian::native == std::endian::little, "shards are read in place");

/// A dataset that cannot be used; the message names the file, what is wrong and where.
struct DatasetError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr char kManifestFile[] = "manifest.json";
inline constexpr char kManifestFormat[] = "normlab-tokens-v1";
inline constexpr uint64_t kShardHeaderBytes = 64;
inline constexpr uint64_t kShardBlockTokens = 32768;

struct ShardHeader {
  uint32_t token_bytes = 0;
  uint64_t num_tokens = 0;
  uint64_t block_tokens = kShardBlockTokens;

  uint64_t NumBlocks() const { return num_tokens / block_tokens + (num_tokens % block_tokens != 0); }
  uint64_t ChecksumsOffset() const { return kShardHeaderBytes + num_tokens * token_bytes; }
  uint64_t FileBytes() const { return ChecksumsOffset() + NumBlocks() * sizeof(uint32_t); }
};

/// Bytes that hold any id below `vocab_size`.
inline uint32_t TokenBytesFor(int64_t vocab_size) { return vocab_size <= 65536 ? 2 : 4; }

inline uint32_t Crc32(const void* data, size_t size) {
  return static_cast<uint32_t>(crc32_z(0, static_cast<const Bytef*>(data), size));
}

inline std::array<char, kShardHeaderBytes> EncodeShardHeader(const ShardHeader& header) {
  std::array<char, kShardHeaderBytes> bytes{};
  const uint32_t version = 1;
  std::memcpy(bytes.data(), "NLTOKENS", 8);
  std::memcpy(bytes.data() + 8, &version, 4);
  std::memcpy(bytes.data() + 12, &header.token_bytes, 4);
  std::memcpy(bytes.data() + 16, &header.num_tokens, 8);
  std::memcpy(bytes.data() + 24, &header.block_tokens, 8);
  const uint32_t crc = Crc32(bytes.data(), 60);
  std::memcpy(bytes.data() + 60, &crc, 4);
  return bytes;
}

/// Reads the header at `data`, the start of a file of `file_bytes` bytes at `path`. Throws DatasetError if it is no
/// shard, of another version, damaged, or if the file is shorter or longer than the header says.
inline ShardHeader DecodeShardHeader(const char* data, uint64_t file_bytes, const std::filesystem::path& path) {
  const std::string name = path.string();
  if (file_bytes < kShardHeaderBytes) {
    throw DatasetError(fmt::format("{} is truncated: it has {} bytes, a shard's header alone has {}", name, file_bytes,
                                   kShardHeaderBytes));
  }
  if (std::memcmp(data, "NLTOKENS", 8) != 0) throw DatasetError(fmt::format("{} is not a normlab token shard", name));
  uint32_t version, crc;
  std::memcpy(&version, data + 8, 4);
  std::memcpy(&crc, data + 60, 4);
  if (const uint32_t actual = Crc32(data, 60); actual != crc) {
    throw DatasetError(
        fmt::format("{} is corrupt: its header has CRC-32 {:08x}, {:08x} is written in it", name, actual, crc));
  }
  if (version != 1) throw DatasetError(fmt::format("{} has shard version {}, this program reads 1", name, version));
  ShardHeader header;
  std::memcpy(&header.token_bytes, data + 12, 4);
  std::memcpy(&header.num_tokens, data + 16, 8);
  std::memcpy(&header.block_tokens, data + 24, 8);
  // The bound keeps the sizes below from wrapping.
  const bool is_sane = (header.token_bytes == 2 || header.token_bytes == 4) && header.block_tokens > 0 &&
                       header.num_tokens < (uint64_t{1} << 56);
  if (!is_sane) {
    throw DatasetError(fmt::format("{} has an impossible header: token_bytes {}, num_tokens {}, block_tokens {}", name,
                                   header.token_bytes, header.num_tokens, header.block_tokens));
  }
  if (file_bytes != header.FileBytes()) {
    throw DatasetError(fmt::format("{} is {}: it has {} bytes, {} tokens need {}; prepare the dataset again", name,
                                   file_bytes < header.FileBytes() ? "truncated" : "too long", file_bytes,
                                   header.num_tokens, header.FileBytes()));
  }
  return header;
}

/// Writes one shard as a stream. The file appears under its name only in Finish, complete and durable; without Finish
/// nothing is left. Throws FileError (disk full, ...) and DatasetError (a token that does not fit).
class TokenShardWriter {
 public:
  TokenShardWriter(const std::filesystem::path& path, uint32_t token_bytes)
      : path_(path), file_(path.string() + ".tmp") {
    header_.token_bytes = token_bytes;
    if (token_bytes != 2 && token_bytes != 4) {
      throw DatasetError(fmt::format("{}: token_bytes is {}, must be 2 or 4", path.string(), token_bytes));
    }
    const auto placeholder = EncodeShardHeader(header_);
    file_.Write(placeholder.data(), placeholder.size());
    block_.reserve(header_.block_tokens * token_bytes);
  }

  void Append(std::span<const uint32_t> tokens) {
    for (const uint32_t token : tokens) {
      if (header_.token_bytes == 2 && token > 0xffff) {
        throw DatasetError(fmt::format("{}: token {} does not fit 2 bytes", path_.string(), token));
      }
      const char* bytes = reinterpret_cast<const char*>(&token);
      block_.insert(block_.end(), bytes, bytes + header_.token_bytes);
      ++header_.num_tokens;
      if (block_.size() == header_.block_tokens * header_.token_bytes) FlushBlock();
    }
  }

  uint64_t num_tokens() const { return header_.num_tokens; }

  void Finish() {
    if (!block_.empty()) FlushBlock();
    file_.Write(checksums_.data(), checksums_.size() * sizeof(uint32_t));
    const auto header = EncodeShardHeader(header_);
    file_.Overwrite(0, header.data(), header.size());
    file_.Close();
    RenameDurably(file_.path(), path_);
  }

 private:
  void FlushBlock() {
    checksums_.push_back(Crc32(block_.data(), block_.size()));
    file_.Write(block_.data(), block_.size());
    block_.clear();
  }

  std::filesystem::path path_;
  DurableFile file_;
  ShardHeader header_;
  std::vector<char> block_;
  std::vector<uint32_t> checksums_;
};

struct ManifestShard {
  std::string file;  // Relative to the manifest's folder.
  int64_t tokens = 0;
};

struct ManifestSplit {
  int64_t tokens = 0;
  int64_t documents = 0;
  std::vector<ManifestShard> shards;
};

struct Manifest {
  int64_t vocab_size = 0;
  int64_t eos_id = 0;
  std::string tokenizer_file;    // Relative to the manifest's folder.
  std::string tokenizer_sha256;  // Lower-case hex.
  ManifestSplit train;
  ManifestSplit validation;
};

namespace manifest_internal {

using nlohmann::json;

inline ManifestSplit ReadSplit(StrictObject object) {
  ManifestSplit split{.tokens = object.Int("tokens"), .documents = object.Int("documents")};
  int64_t sum = 0;
  for (StrictObject& shard : object.Children("shards")) {
    ManifestShard entry{.file = shard.Text("file"), .tokens = shard.Int("tokens")};
    shard.RefuseOthers();
    // A dataset is one folder: a name that leaves it would read whatever the writer of the manifest likes.
    if (entry.file.empty() || entry.file.find('/') != std::string::npos) {
      throw JsonError(fmt::format("{}: \"{}\" is not a plain file name", shard.PathOf("file"), entry.file));
    }
    sum += entry.tokens;
    split.shards.push_back(std::move(entry));
  }
  if (sum != split.tokens) {
    throw JsonError(fmt::format("{}: is {}, but the {} shards have {} tokens", object.PathOf("tokens"), split.tokens,
                                split.shards.size(), sum));
  }
  object.RefuseOthers();
  return split;
}

inline Manifest ReadDocument(const json& document) {
  StrictObject object(document, "");
  if (const std::string format = object.Text("format"); format != kManifestFormat) {
    throw JsonError(fmt::format("format: is \"{}\", this program reads \"{}\"", format, kManifestFormat));
  }
  Manifest manifest{.vocab_size = object.Int("vocab_size", 1), .eos_id = object.Int("eos_id")};
  StrictObject tokenizer = object.Child("tokenizer");
  manifest.tokenizer_file = tokenizer.Text("file");
  manifest.tokenizer_sha256 = tokenizer.Text("sha256");
  tokenizer.RefuseOthers();
  StrictObject splits = object.Child("splits");
  manifest.train = ReadSplit(splits.Child("train"));
  manifest.validation = ReadSplit(splits.Child("validation"));
  splits.RefuseOthers();
  object.RefuseOthers();
  if (manifest.eos_id >= manifest.vocab_size) {
    throw JsonError(fmt::format("eos_id: is {}, must be below vocab_size {}", manifest.eos_id, manifest.vocab_size));
  }
  return manifest;
}

inline json SplitJson(const ManifestSplit& split) {
  json shards = json::array();
  for (const ManifestShard& shard : split.shards) shards.push_back({{"file", shard.file}, {"tokens", shard.tokens}});
  return {{"tokens", split.tokens}, {"documents", split.documents}, {"shards", std::move(shards)}};
}

}  // namespace manifest_internal

/// Reads `folder`/manifest.json. Throws DatasetError if it is missing, not JSON, of another format, or has a key too
/// few or too many.
inline Manifest ReadManifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kManifestFile;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw DatasetError(fmt::format("{} cannot be opened ({}): make the dataset with `normlab data prepare`",
                                   path.string(), std::generic_category().message(errno)));
  }
  try {
    return manifest_internal::ReadDocument(nlohmann::json::parse(file));
  } catch (const nlohmann::json::exception& error) {
    throw DatasetError(fmt::format("{} is not JSON: {}", path.string(), error.what()));
  } catch (const JsonError& error) {
    throw DatasetError(fmt::format("{}: {}", path.string(), error.what()));
  }
}

/// Writes `folder`/manifest.json; write it after all shards, because it makes the folder a dataset. Throws FileError.
inline void WriteManifest(const std::filesystem::path& folder, const Manifest& manifest) {
  const nlohmann::ordered_json document = {
      {"format", kManifestFormat},
      {"vocab_size", manifest.vocab_size},
      {"eos_id", manifest.eos_id},
      {"tokenizer", {{"file", manifest.tokenizer_file}, {"sha256", manifest.tokenizer_sha256}}},
      {"splits",
       {{"train", manifest_internal::SplitJson(manifest.train)},
        {"validation", manifest_internal::SplitJson(manifest.validation)}}}};
  WriteFileDurably(folder / kManifestFile, document.dump(2) + "\n");
}

}  // namespace normlab
