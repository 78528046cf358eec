#include "cli/corpus_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <vector>

#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPackedBytes = 1 << 16;

class PlainStream : public CorpusStream {
 public:
  PlainStream(fs::path path, int fd) : path_(std::move(path)), fd_(fd) {}
  PlainStream(const PlainStream&) = delete;
  PlainStream& operator=(const PlainStream&) = delete;
  ~PlainStream() override { close(fd_); }

  absl::StatusOr<size_t> Read(std::span<char> buffer) override {
    while (true) {
      const ssize_t size = read(fd_, buffer.data(), buffer.size());
      if (size >= 0) {
        position_ += static_cast<uint64_t>(size);
        return static_cast<size_t>(size);
      }
      if (errno != EINTR) return FileProblem(path_, std::error_code(errno, std::generic_category()));
    }
  }
  uint64_t position() const override { return position_; }

 private:
  const fs::path path_;
  const int fd_;
  uint64_t position_ = 0;
};

/// What unpacking gzip and zstd have in common: packed bytes in portions, and where in the file they end.
class PackedStream : public CorpusStream {
 public:
  PackedStream(fs::path path, std::unique_ptr<CorpusStream> file)
      : path_(std::move(path)), file_(std::move(file)), packed_(kPackedBytes) {}

  uint64_t position() const override { return file_->position() - (packed_end_ - packed_begin_); }

 protected:
  /// Reads more if all was used; false at the end of the file.
  absl::StatusOr<bool> HasPacked() {
    if (packed_begin_ < packed_end_) return true;
    NORMLAB_ASSIGN_OR_RETURN(packed_end_, file_->Read(packed_));
    packed_begin_ = 0;
    return packed_end_ > 0;
  }
  std::span<char> packed() { return std::span(packed_).subspan(packed_begin_, packed_end_ - packed_begin_); }
  void UsePacked(size_t size) { packed_begin_ += size; }

  absl::Status Damage(const std::string& what) const {
    return absl::DataLossError(
        fmt::format("{} cannot be unpacked at byte {} ({}); the file is damaged or cut off: get it again or remove it",
                    path_.string(), position(), what));
  }

  const fs::path path_;

 private:
  const std::unique_ptr<CorpusStream> file_;
  std::vector<char> packed_;
  size_t packed_begin_ = 0;
  size_t packed_end_ = 0;
};

class GzipStream : public PackedStream {
 public:
  GzipStream(fs::path path, std::unique_ptr<CorpusStream> file) : PackedStream(std::move(path), std::move(file)) {
    inflateInit2(&inflater_, 15 + 16);  // The largest window; gzip's header and check sum.
  }
  ~GzipStream() override { inflateEnd(&inflater_); }

  absl::StatusOr<size_t> Read(std::span<char> buffer) override {
    inflater_.next_out = reinterpret_cast<Bytef*>(buffer.data());
    inflater_.avail_out = static_cast<uInt>(buffer.size());
    while (inflater_.avail_out == buffer.size()) {
      NORMLAB_ASSIGN_OR_RETURN(const bool has_packed, HasPacked());
      if (!has_packed) {
        if (is_inside_member_) return Damage("unexpected end of file");
        return 0;
      }
      inflater_.next_in = reinterpret_cast<Bytef*>(packed().data());
      inflater_.avail_in = static_cast<uInt>(packed().size());
      is_inside_member_ = true;
      const int code = inflate(&inflater_, Z_NO_FLUSH);
      UsePacked(packed().size() - inflater_.avail_in);
      if (code == Z_STREAM_END) {
        is_inside_member_ = false;
        inflateReset(&inflater_);
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        return Damage(inflater_.msg != nullptr ? inflater_.msg : "not in gzip format");
      }
    }
    return buffer.size() - inflater_.avail_out;
  }

 private:
  z_stream inflater_{};
  bool is_inside_member_ = false;
};

class ZstdStream : public PackedStream {
 public:
  ZstdStream(fs::path path, std::unique_ptr<CorpusStream> file)
      : PackedStream(std::move(path), std::move(file)), context_(ZSTD_createDCtx()) {}
  ~ZstdStream() override { ZSTD_freeDCtx(context_); }

  absl::StatusOr<size_t> Read(std::span<char> buffer) override {
    ZSTD_outBuffer out{.dst = buffer.data(), .size = buffer.size(), .pos = 0};
    while (out.pos == 0) {
      NORMLAB_ASSIGN_OR_RETURN(const bool has_packed, HasPacked());
      if (!has_packed && !is_inside_frame_) return 0;
      ZSTD_inBuffer in{.src = packed().data(), .size = packed().size(), .pos = 0};
      const size_t left = ZSTD_decompressStream(context_, &out, &in);
      UsePacked(in.pos);
      if (ZSTD_isError(left)) return Damage(ZSTD_getErrorName(left));
      is_inside_frame_ = left != 0;
      // Without input it may still have output from before.
      if (!has_packed && out.pos == 0) return Damage("unexpected end of file");
    }
    return out.pos;
  }

 private:
  ZSTD_DCtx* const context_;
  bool is_inside_frame_ = false;
};

}  // namespace

absl::Status FileProblem(const fs::path& path, const std::error_code& error) {
  const std::string message = fmt::format("cannot read {}: {}", path.string(), error.message());
  if (error == std::errc::permission_denied) return absl::PermissionDeniedError(message);
  return absl::InvalidArgumentError(message);
}

absl::StatusOr<std::unique_ptr<CorpusStream>> OpenPacked(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileProblem(path, std::error_code(errno, std::generic_category()));
  posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  return std::make_unique<PlainStream>(path, fd);
}

absl::StatusOr<std::unique_ptr<CorpusStream>> CorpusStream::Open(const fs::path& path) {
  NORMLAB_ASSIGN_OR_RETURN(std::unique_ptr<CorpusStream> file, OpenPacked(path));
  if (path.extension() == ".gz") return std::make_unique<GzipStream>(path, std::move(file));
  if (path.extension() == ".zst") return std::make_unique<ZstdStream>(path, std::move(file));
  return file;
}

}  // namespace normlab::cli
