#include "worker/trainer/data/dataset.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace normlab::trainer {
namespace {

std::string ErrnoText() { return std::generic_category().message(errno); }

template <typename Token>
void Widen(const char* bytes, std::span<int64_t> tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    Token token;
    std::memcpy(&token, bytes + i * sizeof(Token), sizeof(Token));
    tokens[i] = token;
  }
}

}  // namespace

MappedShard::MappedShard(const std::filesystem::path& path) : path_(path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw DatasetError(fmt::format("{} cannot be opened: {}", path.string(), ErrnoText()));
  struct stat status = {};
  if (fstat(fd, &status) != 0 || status.st_size == 0) {
    close(fd);
    throw DatasetError(fmt::format("{} is truncated: it has 0 bytes", path.string()));
  }
  file_bytes_ = static_cast<uint64_t>(status.st_size);
  void* mapping = mmap(nullptr, file_bytes_, PROT_READ, MAP_SHARED, fd, 0);
  const std::string error = mapping == MAP_FAILED ? ErrnoText() : "";
  close(fd);
  if (mapping == MAP_FAILED) {
    throw DatasetError(fmt::format("{} ({} bytes) cannot be mapped: {}", path.string(), file_bytes_, error));
  }
  bytes_ = static_cast<const char*>(mapping);
  try {
    header_ = DecodeShardHeader(bytes_, file_bytes_, path);
  } catch (...) {
    munmap(mapping, file_bytes_);
    throw;
  }
  is_verified_.resize(header_.NumBlocks());
}

MappedShard::~MappedShard() { munmap(const_cast<char*>(bytes_), file_bytes_); }

void MappedShard::Read(uint64_t first, std::span<int64_t> tokens, std::span<uint8_t> is_target) {
  const uint64_t offset = kShardHeaderBytes + first * header_.token_bytes;
  VerifyBytes(offset, tokens.size() * header_.token_bytes);
  if (header_.token_bytes == 2) {
    Widen<uint16_t>(bytes_ + offset, tokens);
  } else {
    Widen<uint32_t>(bytes_ + offset, tokens);
  }
  if (!header_.has_mask || tokens.empty()) {
    std::fill(is_target.begin(), is_target.end(), uint8_t{1});
    return;
  }
  const uint64_t first_byte = first / 8, last_byte = (first + tokens.size() - 1) / 8;
  VerifyBytes(header_.MaskOffset() + first_byte, last_byte - first_byte + 1);
  for (size_t i = 0; i < is_target.size(); ++i) {
    const uint64_t token = first + i;
    is_target[i] = static_cast<uint8_t>(bytes_[header_.MaskOffset() + token / 8]) >> token % 8 & 1;
  }
}

IndexRange MappedShard::Document(uint64_t document) {
  const auto end_of = [&](uint64_t index) {
    const uint64_t offset = header_.EndsOffset() + index * sizeof(uint64_t);
    VerifyBytes(offset, sizeof(uint64_t));
    uint64_t end;
    std::memcpy(&end, bytes_ + offset, sizeof(end));
    return end;
  };
  const uint64_t begin = document == 0 ? 0 : end_of(document - 1);
  const uint64_t end = end_of(document);
  if (begin > end || end > header_.num_tokens) {
    throw DatasetError(fmt::format("{} is corrupt: document {} has tokens {} to {} of {}", path_.string(), document,
                                   begin, end, header_.num_tokens));
  }
  return {static_cast<int64_t>(begin), static_cast<int64_t>(end)};
}

void MappedShard::Verify(const std::function<bool()>& is_time_over) {
  for (uint64_t block = 0; block < is_verified_.size() && !is_time_over(); ++block) {
    if (!is_verified_[block]) VerifyBlock(block);
  }
}

void MappedShard::VerifyBytes(uint64_t offset, uint64_t size) {
  if (size == 0) return;
  const uint64_t begin = offset - kShardHeaderBytes;
  const uint64_t last_block = (begin + size - 1) / header_.block_bytes;
  for (uint64_t block = begin / header_.block_bytes; block <= last_block; ++block) {
    if (!is_verified_[block]) VerifyBlock(block);
  }
}

void MappedShard::VerifyBlock(uint64_t block) {
  const uint64_t offset = kShardHeaderBytes + block * header_.block_bytes;
  const uint64_t size = std::min(header_.block_bytes, header_.ChecksumsOffset() - offset);
  uint32_t expected;
  std::memcpy(&expected, bytes_ + header_.ChecksumsOffset() + block * sizeof(uint32_t), sizeof(expected));
  if (const uint32_t actual = Crc32(bytes_ + offset, size); actual != expected) {
    throw DatasetError(fmt::format(
        "{} is corrupt: block {} (bytes {} to {}) has CRC-32 {:08x}, {:08x} was written; prepare the dataset again",
        path_.string(), block, offset, offset + size - 1, actual, expected));
  }
  is_verified_[block] = true;
}

TokenSplit::TokenSplit(const std::filesystem::path& folder, std::string name, const ManifestSplit& split,
                       int64_t vocab_size)
    : name_(std::move(name)) {
  for (const ManifestShard& entry : split.shards) {
    auto shard = std::make_unique<MappedShard>(folder / entry.file);
    const ShardHeader& header = shard->header();
    if (header.num_tokens != static_cast<uint64_t>(entry.tokens) ||
        header.num_documents != static_cast<uint64_t>(entry.documents)) {
      throw DatasetError(fmt::format("{} has {} tokens in {} documents, the manifest says {} in {}",
                                     shard->path().string(), header.num_tokens, header.num_documents, entry.tokens,
                                     entry.documents));
    }
    if (header.num_tokens > 0 && header.token_max >= vocab_size) {
      throw DatasetError(
          fmt::format("{} has token {}, the manifest's vocab_size is {}: it was made with another "
                      "tokenizer",
                      shard->path().string(), header.token_max, vocab_size));
    }
    num_tokens_ += entry.tokens;
    num_documents_ += entry.documents;
    token_ends_.push_back(num_tokens_);
    document_ends_.push_back(num_documents_);
    shards_.push_back(std::move(shard));
  }
}

void TokenSplit::Read(int64_t first, std::span<int64_t> tokens, std::span<uint8_t> is_target) {
  size_t shard = std::upper_bound(token_ends_.begin(), token_ends_.end(), first) - token_ends_.begin();
  for (; !tokens.empty(); ++shard) {
    const int64_t shard_start = shard == 0 ? 0 : token_ends_[shard - 1];
    const auto count =
        static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(tokens.size()), token_ends_[shard] - first));
    shards_[shard]->Read(static_cast<uint64_t>(first - shard_start), tokens.first(count), is_target.first(count));
    tokens = tokens.subspan(count);
    is_target = is_target.subspan(count);
    first += static_cast<int64_t>(count);
  }
}

IndexRange TokenSplit::Document(int64_t document) {
  const size_t shard =
      std::upper_bound(document_ends_.begin(), document_ends_.end(), document) - document_ends_.begin();
  const int64_t documents_before = shard == 0 ? 0 : document_ends_[shard - 1];
  const int64_t tokens_before = shard == 0 ? 0 : token_ends_[shard - 1];
  const IndexRange range = shards_[shard]->Document(static_cast<uint64_t>(document - documents_before));
  return {tokens_before + range.begin, tokens_before + range.end};
}

void TokenSplit::Verify(const std::function<bool()>& is_time_over) {
  for (const auto& shard : shards_) shard->Verify(is_time_over);
}

}  // namespace normlab::trainer
