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

void MappedShard::Read(uint64_t first, std::span<int64_t> tokens) {
  if (tokens.empty()) return;
  const uint64_t last_block = (first + tokens.size() - 1) / header_.block_tokens;
  for (uint64_t block = first / header_.block_tokens; block <= last_block; ++block) {
    if (!is_verified_[block]) VerifyBlock(block);
  }
  const char* bytes = bytes_ + kShardHeaderBytes + first * header_.token_bytes;
  if (header_.token_bytes == 2) {
    Widen<uint16_t>(bytes, tokens);
  } else {
    Widen<uint32_t>(bytes, tokens);
  }
}

void MappedShard::VerifyBlock(uint64_t block) {
  const uint64_t block_bytes = header_.block_tokens * header_.token_bytes;
  const uint64_t offset = kShardHeaderBytes + block * block_bytes;
  const uint64_t size = std::min(block_bytes, header_.ChecksumsOffset() - offset);
  uint32_t expected;
  std::memcpy(&expected, bytes_ + header_.ChecksumsOffset() + block * sizeof(uint32_t), sizeof(expected));
  if (const uint32_t actual = Crc32(bytes_ + offset, size); actual != expected) {
    throw DatasetError(fmt::format(
        "{} is corrupt: block {} (bytes {} to {}) has CRC-32 {:08x}, {:08x} was written; prepare the dataset again",
        path_.string(), block, offset, offset + size - 1, actual, expected));
  }
  is_verified_[block] = true;
}

TokenSplit::TokenSplit(const std::filesystem::path& folder, std::string name, const ManifestSplit& split)
    : name_(std::move(name)) {
  for (const ManifestShard& entry : split.shards) {
    auto shard = std::make_unique<MappedShard>(folder / entry.file);
    if (shard->header().num_tokens != static_cast<uint64_t>(entry.tokens)) {
      throw DatasetError(fmt::format("{} has {} tokens, the manifest says {}", shard->path().string(),
                                     shard->header().num_tokens, entry.tokens));
    }
    num_tokens_ += entry.tokens;
    shard_ends_.push_back(num_tokens_);
    shards_.push_back(std::move(shard));
  }
}

void TokenSplit::ReadWindow(int64_t window, std::span<int64_t> tokens) {
  int64_t next = window * (static_cast<int64_t>(tokens.size()) - 1);
  size_t shard = std::upper_bound(shard_ends_.begin(), shard_ends_.end(), next) - shard_ends_.begin();
  for (; !tokens.empty(); ++shard) {
    const int64_t shard_start = shard == 0 ? 0 : shard_ends_[shard - 1];
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(tokens.size()), shard_ends_[shard] - next);
    shards_[shard]->Read(static_cast<uint64_t>(next - shard_start), tokens.first(static_cast<size_t>(count)));
    tokens = tokens.subspan(static_cast<size_t>(count));
    next += count;
  }
}

}  // namespace normlab::trainer
