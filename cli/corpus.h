// Text files on disk as documents, for `normlab data prepare`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace normlab::cli {

/// One file is one document.
struct CorpusFile {
  std::filesystem::path path;
  std::string name;    // Below the argument that led to it; the same wherever the corpus lies.
  uint64_t bytes = 0;  // On disk.
  bool is_gzip() const { return path.extension() == ".gz"; }
};

struct Corpus {
  std::vector<CorpusFile> files;  // In order of name.
  int skipped = 0;                // Files in folders that are no text by their name.
  uint64_t bytes = 0;
};

/// All text files (.txt, .md, .rst, each also .gz) below the folders in `paths`, and whatever files are named
/// themselves. NOT_FOUND or PERMISSION_DENIED naming the path that cannot be read; INVALID_ARGUMENT if there is no file
/// at all.
absl::StatusOr<Corpus> FindCorpus(const std::vector<std::string>& paths);

/// The text, unpacked. DATA_LOSS naming the file if it cannot be unpacked or is no text (has a NUL byte),
/// PERMISSION_DENIED or NOT_FOUND if it cannot be read. Safe to call from several threads.
absl::StatusOr<std::string> ReadDocument(const CorpusFile& file);

/// SHA-256 in hex over names and contents (as they lie on disk) of all files.
absl::StatusOr<std::string> DigestCorpus(const Corpus& corpus);

/// SHA-256 in hex of `bytes`.
std::string Sha256Hex(const std::string& bytes);

}  // namespace normlab::cli
