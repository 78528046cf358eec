#include "cli/corpus.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <system_error>

#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;

bool IsTextName(const fs::path& path) {
  static constexpr std::array kSuffixes = {".txt", ".md", ".rst"};
  const std::string suffix = (path.extension() == ".gz" ? path.stem() : path).extension().string();
  return std::find(kSuffixes.begin(), kSuffixes.end(), suffix) != kSuffixes.end();
}

absl::Status FileProblem(const fs::path& path, const std::error_code& error) {
  const std::string message = fmt::format("cannot read {}: {}", path.string(), error.message());
  if (error == std::errc::permission_denied) return absl::PermissionDeniedError(message);
  return absl::InvalidArgumentError(message);
}

absl::Status AddFile(const fs::path& path, std::string name, Corpus* corpus) {
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (error) return FileProblem(path, error);
  corpus->files.push_back({.path = path, .name = std::move(name), .bytes = bytes});
  corpus->bytes += bytes;
  return absl::OkStatus();
}

absl::Status AddFolder(const fs::path& folder, Corpus* corpus) {
  std::error_code error;
  fs::recursive_directory_iterator entries(folder, error);
  for (; !error && entries != fs::recursive_directory_iterator(); entries.increment(error)) {
    if (!entries->is_regular_file()) continue;
    if (!IsTextName(entries->path())) {
      ++corpus->skipped;
      continue;
    }
    NORMLAB_RETURN_IF_ERROR(AddFile(entries->path(), entries->path().lexically_relative(folder).string(), corpus));
  }
  return error ? FileProblem(folder, error) : absl::OkStatus();
}

struct GzipCloser {
  void operator()(gzFile_s* file) const { gzclose(file); }
};

/// Reads the file through `visit`; zlib passes plain files through as they are.
template <typename Visit>
absl::Status ReadChunks(const CorpusFile& file, bool is_unpacked, Visit visit) {
  const int fd = open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileProblem(file.path, std::error_code(errno, std::generic_category()));
  const auto close_fd = [](int* open_fd) { close(*open_fd); };
  int owned = fd;
  const std::unique_ptr<int, decltype(close_fd)> closer(&owned, close_fd);
  std::array<char, 1 << 16> buffer;
  if (!is_unpacked) {
    while (true) {
      const ssize_t size = read(fd, buffer.data(), buffer.size());
      if (size < 0 && errno == EINTR) continue;
      if (size < 0) return FileProblem(file.path, std::error_code(errno, std::generic_category()));
      if (size == 0) return absl::OkStatus();
      visit(buffer.data(), static_cast<size_t>(size));
    }
  }
  const std::unique_ptr<gzFile_s, GzipCloser> in(gzdopen(dup(fd), "rb"));
  if (!in) return absl::ResourceExhaustedError(fmt::format("cannot read {}: no memory", file.path.string()));
  if (gzdirect(in.get()) == 1 && file.bytes > 0) {
    return absl::DataLossError(fmt::format("{} is not in gzip format; rename or remove it", file.path.string()));
  }
  while (true) {
    const int size = gzread(in.get(), buffer.data(), buffer.size());
    int code = Z_OK;
    std::string text = gzerror(in.get(), &code);
    // zlib puts "<fd:4>: " in front.
    if (const size_t colon = text.find(": "); text.starts_with("<") && colon != std::string::npos)
      text.erase(0, colon + 2);
    // A file that was cut off gives what it has, then Z_BUF_ERROR.
    if (size < 0 || (code != Z_OK && code != Z_STREAM_END)) {
      return absl::DataLossError(
          fmt::format("{} cannot be unpacked ({}); the file is damaged or cut off: get it again or remove it",
                      file.path.string(), text));
    }
    if (size == 0) return absl::OkStatus();
    visit(buffer.data(), static_cast<size_t>(size));
  }
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_, EVP_sha256(), nullptr); }
  ~Sha256() { EVP_MD_CTX_free(context_); }
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Add(const char* data, size_t size) { EVP_DigestUpdate(context_, data, size); }
  std::string Hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
    unsigned size = 0;
    EVP_DigestFinal_ex(context_, digest.data(), &size);
    std::string hex;
    for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
    return hex;
  }

 private:
  EVP_MD_CTX* context_;
};

}  // namespace

absl::StatusOr<Corpus> FindCorpus(const std::vector<std::string>& paths) {
  Corpus corpus;
  for (const std::string& text : paths) {
    const fs::path path(text);
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (error && status.type() == fs::file_type::none) return FileProblem(path, error);
    if (!fs::exists(status)) {
      return FileProblem(path, std::make_error_code(std::errc::no_such_file_or_directory));
    }
    if (fs::is_directory(status)) {
      NORMLAB_RETURN_IF_ERROR(AddFolder(path, &corpus));
    } else {
      NORMLAB_RETURN_IF_ERROR(AddFile(path, path.filename().string(), &corpus));
    }
  }
  if (corpus.files.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("no text files found ({} others skipped); folders are searched for .txt, .md and .rst, also with "
                    ".gz; name other files themselves",
                    corpus.skipped));
  }
  std::stable_sort(corpus.files.begin(), corpus.files.end(),
                   [](const CorpusFile& a, const CorpusFile& b) { return a.name < b.name; });
  return corpus;
}

absl::StatusOr<std::string> ReadDocument(const CorpusFile& file) {
  std::string text;
  NORMLAB_RETURN_IF_ERROR(
      ReadChunks(file, file.is_gzip(), [&](const char* data, size_t size) { text.append(data, size); }));
  if (const size_t nul = text.find('\0'); nul != std::string::npos) {
    return absl::DataLossError(
        fmt::format("{} is no text: byte {} is 0; remove it from the corpus", file.path.string(), nul));
  }
  return text;
}

absl::StatusOr<std::string> DigestCorpus(const Corpus& corpus) {
  Sha256 digest;
  for (const CorpusFile& file : corpus.files) {
    // The length in front keeps "ab" + "c" apart from "a" + "bc".
    const std::string head = fmt::format("{}:{}:{}\n", file.name.size(), file.name, file.bytes);
    digest.Add(head.data(), head.size());
    NORMLAB_RETURN_IF_ERROR(
        ReadChunks(file, /*is_unpacked=*/false, [&](const char* data, size_t size) { digest.Add(data, size); }));
  }
  return digest.Hex();
}

std::string Sha256Hex(const std::string& bytes) {
  Sha256 digest;
  digest.Add(bytes.data(), bytes.size());
  return digest.Hex();
}

}  // namespace normlab::cli
