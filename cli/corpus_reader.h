// The documents of a corpus, one after another, in bounded memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/corpus.h"
#include "cli/corpus_file.h"

namespace normlab::cli {

/// A document as it was read: the whole text file, or the line of JSON without its line end.
struct RawDocument {
  DocumentPosition position;
  std::string bytes;
  uint64_t corpus_position = 0;  // Bytes of the corpus on disk that were used up to here.
};

/// Memory holds one document and a buffer. One thread.
class CorpusReader {
 public:
  /// Reads files `first` to `end` - 1. `corpus` must outlive the reader.
  CorpusReader(const Corpus& corpus, uint64_t first, uint64_t end);

  /// The next document; false at the end. Lines of blanks are counted and skipped. Fails as CorpusStream does, and with
  /// INVALID_ARGUMENT for a document of more than `kDocumentBytesMax`.
  absl::StatusOr<bool> Next(RawDocument* document);

  static constexpr uint64_t kDocumentBytesMax = 256 << 20;

 private:
  absl::StatusOr<bool> NextOfFile(RawDocument* document);
  absl::StatusOr<bool> ReadWhole(std::string* text);
  absl::StatusOr<bool> ReadLine(std::string* line);
  const CorpusFile& file() const { return corpus_.files[next_.file]; }

  const Corpus& corpus_;
  const uint64_t end_;
  DocumentPosition next_;
  uint64_t done_bytes_ = 0;  // Of the files before this one.
  std::unique_ptr<CorpusStream> stream_;
  std::vector<char> buffer_;
  size_t buffer_begin_ = 0;
  size_t buffer_end_ = 0;
};

/// "corpus/a.jsonl.gz line 17" or "corpus/a.txt".
std::string PlaceOf(const Corpus& corpus, DocumentPosition position);

}  // namespace normlab::cli
