#include "cli/corpus_reader.h"

#include <algorithm>
#include <cstring>

#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

constexpr size_t kBufferBytes = 1 << 18;

bool IsBlank(const std::string& line) { return line.find_first_not_of(" \t\r") == std::string::npos; }

absl::Status TooLong(const std::string& place) {
  return absl::InvalidArgumentError(fmt::format("{} is longer than {} bytes, the most for one document: split it",
                                                place, CorpusReader::kDocumentBytesMax));
}

}  // namespace

CorpusReader::CorpusReader(const Corpus& corpus, uint64_t first, uint64_t end)
    : corpus_(corpus), end_(end), next_({.file = first}), buffer_(kBufferBytes) {
  for (uint64_t i = 0; i < first; ++i) done_bytes_ += corpus.files[i].bytes;
}

absl::StatusOr<bool> CorpusReader::Next(RawDocument* document) {
  while (next_.file < end_) {
    if (stream_ == nullptr) {
      NORMLAB_ASSIGN_OR_RETURN(stream_, CorpusStream::Open(file().path));
    }
    NORMLAB_ASSIGN_OR_RETURN(const bool has_one, NextOfFile(document));
    if (has_one) return true;
    done_bytes_ += file().bytes;
    stream_.reset();
    buffer_begin_ = buffer_end_ = 0;
    next_ = {.file = next_.file + 1};
  }
  return false;
}

absl::StatusOr<bool> CorpusReader::NextOfFile(RawDocument* document) {
  if (file().format == CorpusFormat::kText) {
    if (next_.line > 0) return false;
    NORMLAB_ASSIGN_OR_RETURN(const bool has_all, ReadWhole(&document->bytes));
    if (!has_all) return TooLong(file().path.string());
  } else {
    do {
      NORMLAB_ASSIGN_OR_RETURN(const bool has_line, ReadLine(&document->bytes));
      if (!has_line) return false;
      ++next_.line;
    } while (IsBlank(document->bytes));
    --next_.line;
  }
  document->position = next_;
  document->corpus_position = done_bytes_ + stream_->position();
  ++next_.line;
  return true;
}

absl::StatusOr<bool> CorpusReader::ReadWhole(std::string* text) {
  text->clear();
  while (true) {
    NORMLAB_ASSIGN_OR_RETURN(const size_t size, stream_->Read(buffer_));
    if (size == 0) return true;
    if (text->size() + size > kDocumentBytesMax) return false;
    text->append(buffer_.data(), size);
  }
}

absl::StatusOr<bool> CorpusReader::ReadLine(std::string* line) {
  line->clear();
  while (true) {
    if (buffer_begin_ == buffer_end_) {
      NORMLAB_ASSIGN_OR_RETURN(buffer_end_, stream_->Read(buffer_));
      buffer_begin_ = 0;
      // The last line may have no line end.
      if (buffer_end_ == 0) return !line->empty();
    }
    const char* begin = buffer_.data() + buffer_begin_;
    const size_t size = buffer_end_ - buffer_begin_;
    const auto* line_end = static_cast<const char*>(std::memchr(begin, '\n', size));
    const size_t taken = line_end == nullptr ? size : static_cast<size_t>(line_end - begin);
    if (line->size() + taken > kDocumentBytesMax) return TooLong(PlaceOf(corpus_, next_));
    line->append(begin, taken);
    buffer_begin_ += line_end == nullptr ? taken : taken + 1;
    if (line_end != nullptr) return true;
  }
}

std::string PlaceOf(const Corpus& corpus, DocumentPosition position) {
  const CorpusFile& file = corpus.files[position.file];
  if (file.format == CorpusFormat::kText) return file.path.string();
  return fmt::format("{} line {}", file.path.string(), position.line + 1);
}

}  // namespace normlab::cli
