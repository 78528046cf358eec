// Files on disk as a corpus, for `normlab data prepare`.
#pragma once

#include <atomic>
#include <compare>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace normlab::cli {

enum class CorpusFormat {
  kText,       // The file is one document.
  kJsonLines,  // Each line is one document, a JSON object.
};

struct CorpusFile {
  std::filesystem::path path;
  std::string name;    // Below the argument that led to it; the same wherever the corpus lies.
  uint64_t bytes = 0;  // On disk.
  CorpusFormat format = CorpusFormat::kText;
  bool is_validation = false;  // Held out as a whole.
};

struct Corpus {
  std::vector<CorpusFile> files;
  int skipped = 0;  // Files in folders that are no text by their name.
  uint64_t bytes = 0;
};

/// Where a document stands in a corpus. A text file has line 0 only.
struct DocumentPosition {
  uint64_t file = 0;
  uint64_t line = 0;
  auto operator<=>(const DocumentPosition&) const = default;
};

/// All files below the folders in `paths` that are text (.txt, .md, .rst) or JSON Lines (.jsonl, .ndjson, .json) by
/// their name, each also with .gz or .zst, and whatever files are named themselves; in order of name, those of
/// `validation` behind those of `paths`. INVALID_ARGUMENT or PERMISSION_DENIED naming the path that cannot be read;
/// INVALID_ARGUMENT if there is no file at all.
absl::StatusOr<Corpus> FindCorpus(const std::vector<std::string>& paths, const std::vector<std::string>& validation);

/// SHA-256 in hex over names and contents (as they lie on disk) of all files. Tells `on_bytes` now and then how many
/// bytes were read. CANCELLED soon after `stop` is set.
absl::StatusOr<std::string> DigestCorpus(const Corpus& corpus, const std::atomic<bool>& stop,
                                         const std::function<void(uint64_t)>& on_bytes);

/// SHA-256 in hex of `bytes`.
std::string Sha256Hex(const std::string& bytes);

/// SHA-256 in hex of a file. As FileProblem if it cannot be read.
absl::StatusOr<std::string> Sha256OfFile(const std::filesystem::path& path);

}  // namespace normlab::cli
