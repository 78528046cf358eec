#pragma once

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
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
//   manifest   := {"format": "normlab-tokens-v2", "vocab_size": N, "eos_id": N,
//                  "tokenizer": {"file": NAME, "sha256": HEX},
//                  "source": {...}                    of what it was made; only `normlab data prepare` reads it
//                  "splits": {"train": split, "validation": split}}
//   split      := {"tokens": N, "documents": N,       what the shards hold
//                  "text_bytes": N,                   of those documents, unpacked
//                  "empty": N, "invalid": N,          documents that were left out
//                  "shards": [{"file": NAME, "tokens": N, "documents": N, "sha256": HEX}, ...]}
//
//   shard      := header body checksums             all numbers little-endian
//   header     := magic       8 bytes  "NLTOKENS"
//                 version        u32   2
//                 token_bytes    u32   2 or 4
//                 num_tokens     u64
//                 block_bytes    u64   bytes of the body per checksum; the last block may be shorter
//                 num_documents  u64
//                 token_max      u32   largest token in the shard; 0 if it has none
//                 has_mask       u32   0 or 1
//                 reserved  12 bytes   0
//                 crc            u32   CRC-32 (zlib) of the 60 bytes before
//   body       := tokens ends [mask]
//   tokens     := num_tokens * token_bytes
//   ends       := one u64 per document: tokens of the shard up to and with it
//   mask       := ceil(num_tokens / 8) bytes; bit i % 8 of byte i / 8 is 1 if token i is one to predict
//   checksums  := one u32 per block, CRC-32 of the block's bytes
//
// A shard's size follows from its header, so a truncated one is found when it is opened; a changed byte is found by its
// block's checksum. A split is the shards' tokens one after another. A document ends in eos_id and lies in one shard.
// Without a mask every token is one to predict.
namespace normlab {

static_assert(std::endian::native == std::endian::little, "shards are read in place");

/// A dataset that cannot be used; the message names the file, what is wrong and where.
struct DatasetError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr char kManifestFile[] = "manifest.json";
inline constexpr char kManifestFormat[] = "normlab-tokens-v2";
inline constexpr uint32_t kShardVersion = 2;
inline constexpr uint64_t kShardHeaderBytes = 64;
inline constexpr uint64_t kShardBlockBytes = 65536;

struct ShardHeader {
  uint32_t token_bytes = 0;
  uint64_t num_tokens = 0;
  uint64_t block_bytes = kShardBlockBytes;
  uint64_t num_documents = 0;
  uint32_t token_max = 0;
  bool has_mask = false;

  // Offsets are from the start of the file.
  uint64_t EndsOffset() const { return kShardHeaderBytes + num_tokens * token_bytes; }
  uint64_t MaskOffset() const { return EndsOffset() + num_documents * sizeof(uint64_t); }
  uint64_t ChecksumsOffset() const { return MaskOffset() + (has_mask ? num_tokens / 8 + (num_tokens % 8 != 0) : 0); }
  uint64_t NumBlocks() const { return (ChecksumsOffset() - kShardHeaderBytes + block_bytes - 1) / block_bytes; }
  uint64_t FileBytes() const { return ChecksumsOffset() + NumBlocks() * sizeof(uint32_t); }
};

/// Bytes that hold any id below `vocab_size`.
inline uint32_t TokenBytesFor(int64_t vocab_size) { return vocab_size <= 65536 ? 2 : 4; }

inline uint32_t Crc32(const void* data, size_t size) {
  return static_cast<uint32_t>(crc32_z(0, static_cast<const Bytef*>(data), size));
}

inline std::array<char, kShardHeaderBytes> EncodeShardHeader(const ShardHeader& header) {
  std::array<char, kShardHeaderBytes> bytes{};
  const auto put = [&](size_t offset, auto number) { std::memcpy(bytes.data() + offset, &number, sizeof(number)); };
  std::memcpy(bytes.data(), "NLTOKENS", 8);
  put(8, kShardVersion);
  put(12, header.token_bytes);
  put(16, header.num_tokens);
  put(24, header.block_bytes);
  put(32, header.num_documents);
  put(40, header.token_max);
  put(44, uint32_t{header.has_mask});
  put(60, Crc32(bytes.data(), 60));
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
  const auto get = [&]<typename Number>(size_t offset, Number number) {
    std::memcpy(&number, data + offset, sizeof(number));
    return number;
  };
  if (std::memcmp(data, "NLTOKENS", 8) != 0) throw DatasetError(fmt::format("{} is not a normlab token shard", name));
  if (const uint32_t actual = Crc32(data, 60), written = get(60, uint32_t{}); actual != written) {
    throw DatasetError(
        fmt::format("{} is corrupt: its header has CRC-32 {:08x}, {:08x} is written in it", name, actual, written));
  }
  if (const uint32_t version = get(8, uint32_t{}); version != kShardVersion) {
    throw DatasetError(fmt::format("{} has shard version {}, this program reads {}: prepare the dataset again", name,
                                   version, kShardVersion));
  }
  const ShardHeader header{.token_bytes = get(12, uint32_t{}),
                           .num_tokens = get(16, uint64_t{}),
                           .block_bytes = get(24, uint64_t{}),
                           .num_documents = get(32, uint64_t{}),
                           .token_max = get(40, uint32_t{}),
                           .has_mask = get(44, uint32_t{}) != 0};
  // The bounds keep the sizes from wrapping.
  const bool is_sane = (header.token_bytes == 2 || header.token_bytes == 4) && header.block_bytes > 0 &&
                       header.block_bytes <= (uint64_t{1} << 32) && header.num_tokens < (uint64_t{1} << 56) &&
                       header.num_documents <= header.num_tokens;
  if (!is_sane) {
    throw DatasetError(
        fmt::format("{} has an impossible header: token_bytes {}, num_tokens {}, block_bytes {}, num_documents {}",
                    name, header.token_bytes, header.num_tokens, header.block_bytes, header.num_documents));
  }
  if (file_bytes != header.FileBytes()) {
    throw DatasetError(
        fmt::format("{} is {}: it has {} bytes, {} tokens in {} documents need {}; prepare the dataset "
                    "again",
                    name, file_bytes < header.FileBytes() ? "truncated" : "too long", file_bytes, header.num_tokens,
                    header.num_documents, header.FileBytes()));
  }
  return header;
}

/// Writes one shard as a stream. The file appears under its name only in Finish, complete and durable; without Finish
/// nothing is left. Throws FileError (disk full, ...) and DatasetError (a token that does not fit).
class TokenShardWriter {
 public:
  TokenShardWriter(const std::filesystem::path& path, uint32_t token_bytes, bool has_mask = false)
      : path_(path), file_(path.string() + ".tmp") {
    header_.token_bytes = token_bytes;
    header_.has_mask = has_mask;
    if (token_bytes != 2 && token_bytes != 4) {
      throw DatasetError(fmt::format("{}: token_bytes is {}, must be 2 or 4", path.string(), token_bytes));
    }
    const auto placeholder = EncodeShardHeader(header_);
    file_.Write(placeholder.data(), placeholder.size());
    block_.reserve(header_.block_bytes);
  }

  /// The first `num_given` tokens are marked as not to be predicted; more than 0 only with a mask.
  void AppendDocument(std::span<const uint32_t> tokens, uint64_t num_given = 0) {
    for (const uint32_t token : tokens) {
      if (header_.token_bytes == 2 && token > 0xffff) {
        throw DatasetError(fmt::format("{}: token {} does not fit 2 bytes", path_.string(), token));
      }
      header_.token_max = std::max(header_.token_max, token);
      Put(&token, header_.token_bytes);
    }
    if (header_.has_mask) {
      mask_.resize(header_.num_tokens + tokens.size(), true);
      std::fill_n(mask_.begin() + static_cast<int64_t>(header_.num_tokens), std::min(num_given, tokens.size()), false);
    }
    header_.num_tokens += tokens.size();
    ++header_.num_documents;
    ends_.push_back(header_.num_tokens);
  }

  uint64_t num_tokens() const { return header_.num_tokens; }
  uint64_t num_documents() const { return header_.num_documents; }

  void Finish() {
    for (const uint64_t end : ends_) Put(&end, sizeof(end));
    for (size_t i = 0; i < mask_.size(); i += 8) {
      uint8_t bits = 0;
      for (size_t bit = 0; bit < 8 && i + bit < mask_.size(); ++bit)
        bits |= static_cast<uint8_t>(mask_[i + bit] << bit);
      Put(&bits, 1);
    }
    if (!block_.empty()) FlushBlock();
    file_.Write(checksums_.data(), checksums_.size() * sizeof(uint32_t));
    const auto header = EncodeShardHeader(header_);
    file_.Overwrite(0, header.data(), header.size());
    file_.Close();
    RenameDurably(file_.path(), path_);
  }

 private:
  /// Appends to the body. `size` is at most 8.
  void Put(const void* data, size_t size) {
    const char* bytes = static_cast<const char*>(data);
    if (block_.size() + size > header_.block_bytes) {
      const size_t fitting = header_.block_bytes - block_.size();
      block_.insert(block_.end(), bytes, bytes + fitting);
      FlushBlock();
      bytes += fitting;
      size -= fitting;
    }
    block_.insert(block_.end(), bytes, bytes + size);
  }
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
  std::vector<uint64_t> ends_;
  std::vector<bool> mask_;
};

struct ManifestShard {
  std::string file;  // Relative to the manifest's folder.
  int64_t tokens = 0;
  int64_t documents = 0;
  std::string sha256;  // Of the file, lower-case hex.
};

struct ManifestSplit {
  int64_t tokens = 0;
  int64_t documents = 0;
  int64_t text_bytes = 0;  // Of the documents, unpacked.
  int64_t empty = 0;       // Documents without text, left out.
  int64_t invalid = 0;     // Documents that could not be read, left out.
  std::vector<ManifestShard> shards;
};

struct Manifest {
  int64_t vocab_size = 0;
  int64_t eos_id = 0;
  std::string tokenizer_file;    // Relative to the manifest's folder.
  std::string tokenizer_sha256;  // Lower-case hex.
  nlohmann::json source;         // Of what it was made, an object that only its maker understands.
  ManifestSplit train;
  ManifestSplit validation;
};

namespace manifest_internal {

using nlohmann::json;

inline ManifestSplit ReadSplit(StrictObject object) {
  ManifestSplit split{.tokens = object.Int("tokens"),
                      .documents = object.Int("documents"),
                      .text_bytes = object.Int("text_bytes"),
                      .empty = object.Int("empty"),
                      .invalid = object.Int("invalid")};
  int64_t tokens = 0, documents = 0;
  for (StrictObject& shard : object.Children("shards")) {
    ManifestShard entry{.file = shard.Text("file"),
                        .tokens = shard.Int("tokens"),
                        .documents = shard.Int("documents"),
                        .sha256 = shard.Text("sha256")};
    shard.RefuseOthers();
    // A dataset is one folder: a name that leaves it would read whatever the writer of the manifest likes.
    if (entry.file.empty() || entry.file.find('/') != std::string::npos) {
      throw JsonError(fmt::format("{}: \"{}\" is not a plain file name", shard.PathOf("file"), entry.file));
    }
    tokens += entry.tokens;
    documents += entry.documents;
    split.shards.push_back(std::move(entry));
  }
  const auto require_sum = [&](const char* key, int64_t said, int64_t sum) {
    if (sum == said) return;
    throw JsonError(fmt::format("{}: is {}, but the {} shards have {} {}", object.PathOf(key), said,
                                split.shards.size(), sum, key));
  };
  require_sum("tokens", split.tokens, tokens);
  require_sum("documents", split.documents, documents);
  object.RefuseOthers();
  return split;
}

inline Manifest ReadDocument(const json& document) {
  StrictObject object(document, "");
  if (const std::string format = object.Text("format"); format != kManifestFormat) {
    throw JsonError(fmt::format("format: is \"{}\", this program reads \"{}\"; prepare the dataset again", format,
                                kManifestFormat));
  }
  Manifest manifest{.vocab_size = object.Int("vocab_size", 1), .eos_id = object.Int("eos_id")};
  StrictObject tokenizer = object.Child("tokenizer");
  manifest.tokenizer_file = tokenizer.Text("file");
  manifest.tokenizer_sha256 = tokenizer.Text("sha256");
  tokenizer.RefuseOthers();
  if (manifest.tokenizer_file.empty() || manifest.tokenizer_file.find('/') != std::string::npos) {
    throw JsonError(fmt::format("tokenizer.file: \"{}\" is not a plain file name", manifest.tokenizer_file));
  }
  manifest.source = object.Member("source");
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

inline nlohmann::ordered_json SplitJson(const ManifestSplit& split) {
  nlohmann::ordered_json shards = json::array();
  for (const ManifestShard& shard : split.shards) {
    shards.push_back(
        {{"file", shard.file}, {"tokens", shard.tokens}, {"documents", shard.documents}, {"sha256", shard.sha256}});
  }
  return {{"tokens", split.tokens}, {"documents", split.documents}, {"text_bytes", split.text_bytes},
          {"empty", split.empty},   {"invalid", split.invalid},     {"shards", std::move(shards)}};
}

}  // namespace manifest_internal

/// Reads a manifest's text; `name` is its file in messages. Throws DatasetError if it is not JSON, of another format,
/// or has a key too few or too many.
inline Manifest ParseManifest(const std::string& text, const std::string& name) {
  try {
    return manifest_internal::ReadDocument(nlohmann::json::parse(text));
  } catch (const nlohmann::json::exception& error) {
    throw DatasetError(fmt::format("{} is not JSON: {}", name, error.what()));
  } catch (const JsonError& error) {
    throw DatasetError(fmt::format("{}: {}", name, error.what()));
  }
}

/// Reads `folder`/manifest.json. Throws DatasetError if it is missing, or as ParseManifest.
inline Manifest ReadManifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kManifestFile;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw DatasetError(fmt::format("{} cannot be opened ({}): make the dataset with `normlab data prepare`",
                                   path.string(), std::generic_category().message(errno)));
  }
  return ParseManifest(std::string(std::istreambuf_iterator<char>(file), {}), path.string());
}

/// Writes `folder`/manifest.json; write it after all shards, because it makes the folder a dataset. Throws FileError.
inline void WriteManifest(const std::filesystem::path& folder, const Manifest& manifest) {
  const nlohmann::ordered_json document = {
      {"format", kManifestFormat},
      {"vocab_size", manifest.vocab_size},
      {"eos_id", manifest.eos_id},
      {"tokenizer", {{"file", manifest.tokenizer_file}, {"sha256", manifest.tokenizer_sha256}}},
      {"source", manifest.source},
      {"splits",
       {{"train", manifest_internal::SplitJson(manifest.train)},
        {"validation", manifest_internal::SplitJson(manifest.validation)}}}};
  WriteFileDurably(folder / kManifestFile, document.dump(2) + "\n");
}

}  // namespace normlab
