#include "cli/corpus.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <optional>
#include <system_error>

#include "cli/corpus_file.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;

/// The format that a file's name stands for; nothing if none.
std::optional<CorpusFormat> FormatOf(const fs::path& path) {
  const bool is_packed = path.extension() == ".gz" || path.extension() == ".zst";
  const std::string suffix = (is_packed ? path.stem() : path).extension().string();
  const auto is_one_of = [&](const auto& suffixes) {
    return std::find(suffixes.begin(), suffixes.end(), suffix) != suffixes.end();
  };
  if (is_one_of(std::array{".txt", ".md", ".rst"})) return CorpusFormat::kText;
  if (is_one_of(std::array{".jsonl", ".ndjson", ".json"})) return CorpusFormat::kJsonLines;
  return std::nullopt;
}

absl::Status AddFile(const fs::path& path, std::string name, CorpusFormat format, Corpus* corpus) {
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (error) return FileProblem(path, error);
  corpus->files.push_back({.path = path, .name = std::move(name), .bytes = bytes, .format = format});
  corpus->bytes += bytes;
  return absl::OkStatus();
}

absl::Status AddFolder(const fs::path& folder, Corpus* corpus) {
  std::error_code error;
  fs::recursive_directory_iterator entries(folder, error);
  for (; !error && entries != fs::recursive_directory_iterator(); entries.increment(error)) {
    if (!entries->is_regular_file()) continue;
    const auto format = FormatOf(entries->path());
    if (!format) {
      ++corpus->skipped;
      continue;
    }
    const std::string name = entries->path().lexically_relative(folder).string();
    NORMLAB_RETURN_IF_ERROR(AddFile(entries->path(), name, *format, corpus));
  }
  return error ? FileProblem(folder, error) : absl::OkStatus();
}

absl::StatusOr<Corpus> FindFiles(const std::vector<std::string>& paths) {
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
      const CorpusFormat format = FormatOf(path).value_or(CorpusFormat::kText);
      NORMLAB_RETURN_IF_ERROR(AddFile(path, path.filename().string(), format, &corpus));
    }
  }
  if (corpus.files.empty() && !paths.empty()) {
    return absl::InvalidArgumentError(fmt::format(
        "no text files found ({} others skipped); folders are searched for .txt, .md, .rst, .jsonl, .ndjson "
        "and .json, also with .gz or .zst; name other files themselves",
        corpus.skipped));
  }
  std::stable_sort(corpus.files.begin(), corpus.files.end(),
                   [](const CorpusFile& a, const CorpusFile& b) { return a.name < b.name; });
  return corpus;
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_, EVP_sha256(), nullptr); }
  ~Sha256() { EVP_MD_CTX_free(context_); }
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Add(const char* data, size_t size) { EVP_DigestUpdate(context_, data, size); }
  void Add(const std::string& text) { Add(text.data(), text.size()); }
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

/// Adds the file as it lies on disk; `on_bytes` is told how much of it was read.
absl::Status AddContent(const fs::path& path, const std::atomic<bool>& stop,
                        const std::function<void(uint64_t)>& on_bytes, Sha256* digest) {
  NORMLAB_ASSIGN_OR_RETURN(const auto file, OpenPacked(path));
  std::array<char, 1 << 16> buffer;
  while (!stop) {
    NORMLAB_ASSIGN_OR_RETURN(const size_t size, file->Read(buffer));
    if (size == 0) return absl::OkStatus();
    digest->Add(buffer.data(), size);
    on_bytes(file->position());
  }
  return absl::CancelledError("interrupted while the input was read for its hash; nothing was made yet");
}

}  // namespace

absl::StatusOr<Corpus> FindCorpus(const std::vector<std::string>& paths, const std::vector<std::string>& validation) {
  NORMLAB_ASSIGN_OR_RETURN(Corpus corpus, FindFiles(paths));
  NORMLAB_ASSIGN_OR_RETURN(Corpus held_out, FindFiles(validation));
  corpus.skipped += held_out.skipped;
  corpus.bytes += held_out.bytes;
  for (CorpusFile& file : held_out.files) {
    file.is_validation = true;
    corpus.files.push_back(std::move(file));
  }
  return corpus;
}

absl::StatusOr<std::string> DigestCorpus(const Corpus& corpus, const std::atomic<bool>& stop,
                                         const std::function<void(uint64_t)>& on_bytes) {
  Sha256 digest;
  uint64_t done_bytes = 0;
  for (const CorpusFile& file : corpus.files) {
    // The length in front keeps "ab" + "c" apart from "a" + "bc".
    digest.Add(fmt::format("{}:{}:{}:{}\n", file.name.size(), file.name, file.bytes, file.is_validation));
    const auto on_file_bytes = [&](uint64_t bytes) { on_bytes(done_bytes + bytes); };
    NORMLAB_RETURN_IF_ERROR(AddContent(file.path, stop, on_file_bytes, &digest));
    done_bytes += file.bytes;
  }
  return digest.Hex();
}

std::string Sha256Hex(const std::string& bytes) {
  Sha256 digest;
  digest.Add(bytes);
  return digest.Hex();
}

absl::StatusOr<std::string> Sha256OfFile(const fs::path& path) {
  Sha256 digest;
  NORMLAB_RETURN_IF_ERROR(AddContent(
      path, /*stop=*/false, [](uint64_t) {}, &digest));
  return digest.Hex();
}

}  // namespace normlab::cli
