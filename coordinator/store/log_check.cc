#include "coordinator/store/log_check.h"

#include <absl/status/statusor.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>

#include "common/status.h"

namespace normlab::store {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBlockBytes = 32'768;
constexpr size_t kHeaderBytes = 7;
constexpr int kTypeMax = 4;

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
    table[byte] = crc;
  }
  return table;
}

/// RocksDB stores checksums masked, because a checksum of bytes that hold their own checksum is worth little.
uint32_t Mask(uint32_t crc) { return (crc >> 15 | crc << 17) + 0xa282ead8; }

uint32_t ReadLittleEndian(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

struct Header {
  uint32_t checksum;
  size_t length;
  int type;

  size_t record_bytes() const { return kHeaderBytes + length; }
};

Header ReadHeader(std::string_view content, size_t offset) {
  return {.checksum = ReadLittleEndian(content.substr(offset, 4)),
          .length = ReadLittleEndian(content.substr(offset + 4, 2)),
          .type = static_cast<unsigned char>(content[offset + 6])};
}

/// Whether the checksum at `offset` is that of the type and the `num_bytes` bytes behind the header.
bool ChecksumFits(std::string_view content, size_t offset, size_t num_bytes) {
  return ReadHeader(content, offset).checksum == Mask(Crc32c(content.substr(offset + 6, 1 + num_bytes)));
}

size_t LeftInBlock(size_t offset) { return kBlockBytes - offset % kBlockBytes; }

bool IsWholeRecord(std::string_view content, size_t offset) {
  if (content.size() - offset < kHeaderBytes || LeftInBlock(offset) < kHeaderBytes) return false;
  const Header header = ReadHeader(content, offset);
  if (header.type < 1 || header.type > kTypeMax || header.length == 0) return false;
  if (header.record_bytes() > std::min(LeftInBlock(offset), content.size() - offset)) return false;
  return ChecksumFits(content, offset, header.record_bytes() - kHeaderBytes);
}

bool HasRecordBehind(std::string_view content, size_t offset) {
  for (size_t next = offset + 1; next < content.size(); ++next) {
    if (IsWholeRecord(content, next)) return true;
  }
  return false;
}

absl::Status Damaged(const std::string& path, size_t offset, size_t size, const char* what) {
  return absl::DataLossError(fmt::format("{} is damaged at byte {} of {}: {}", path, offset, size, what));
}

absl::StatusOr<std::string> ReadWhole(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  // Through a stream: an iterator over the file throws where the disk cannot be read. An empty file is no failure.
  std::ostringstream content;
  content << file.rdbuf();
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error || content.view().size() != size) {
    return absl::DataLossError(fmt::format("cannot read {}: got {} bytes of {}", path.string(), content.view().size(),
                                           error ? error.message() : std::to_string(size)));
  }
  return std::move(content).str();
}

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = MakeCrcTable();
  uint32_t crc = 0xffffffff;
  for (const char byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

absl::Status CheckLog(const std::string& path, std::string_view content) {
  for (size_t offset = 0; offset < content.size();) {
    const size_t left = LeftInBlock(offset);
    if (left < kHeaderBytes) {
      offset += left;
      continue;
    }
    if (content.size() - offset < kHeaderBytes) return absl::OkStatus();
    const std::string_view rest = content.substr(offset);
    const Header header = ReadHeader(content, offset);
    if (header.type == 0 && header.length == 0) {
      // Space that the file system gave and nothing was written to before the crash.
      if (std::all_of(rest.begin(), rest.end(), [](char byte) { return byte == 0; })) return absl::OkStatus();
      return Damaged(path, offset, content.size(), "an empty record stands before others");
    }
    if (header.type < 1 || header.type > kTypeMax) {
      return Damaged(path, offset, content.size(), "a record is of a type that is never written");
    }
    if (header.record_bytes() > left) {
      return Damaged(path, offset, content.size(), "a record is longer than its block can hold");
    }
    if (header.record_bytes() > rest.size()) {
      if (ChecksumFits(content, offset, rest.size() - kHeaderBytes) || HasRecordBehind(content, offset)) {
        return Damaged(path, offset, content.size(), "the length of a record is wrong");
      }
      return absl::OkStatus();
    }
    if (!ChecksumFits(content, offset, header.record_bytes() - kHeaderBytes)) {
      return Damaged(path, offset, content.size(), "the checksum of a record does not fit");
    }
    offset += header.record_bytes();
  }
  return absl::OkStatus();
}

absl::Status CheckDatabaseFiles(const std::string& folder) {
  const fs::path current = fs::path(folder) / "CURRENT";
  std::error_code error;
  if (!fs::exists(current, error)) {
    // RocksDB would begin a new database over the remains.
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      if (entry.path().extension() == ".sst" || entry.path().extension() == ".log") {
        return absl::DataLossError(
            fmt::format("{} is missing, but there is {}", current.string(), entry.path().filename().string()));
      }
    }
    return absl::OkStatus();
  }
  NORMLAB_ASSIGN_OR_RETURN(const std::string name, ReadWhole(current));
  static const std::regex kName("MANIFEST-[0-9]+\n");
  const fs::path manifest = fs::path(folder) / name.substr(0, name.find('\n'));
  if (!std::regex_match(name, kName) || !fs::exists(manifest, error)) {
    return absl::DataLossError(
        fmt::format("{} is damaged: its {} bytes name no MANIFEST that is there", current.string(), name.size()));
  }
  NORMLAB_ASSIGN_OR_RETURN(const std::string content, ReadWhole(manifest));
  NORMLAB_RETURN_IF_ERROR(CheckLog(manifest.string(), content));
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".log") continue;
    NORMLAB_ASSIGN_OR_RETURN(const std::string log, ReadWhole(entry.path()));
    NORMLAB_RETURN_IF_ERROR(CheckLog(entry.path().string(), log));
  }
  return absl::OkStatus();
}

}  // namespace normlab::store
