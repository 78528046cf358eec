// SentencePiece, trained or given.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/corpus.h"
#include "cli/sentence_piece.h"

namespace normlab::cli {

/// Turns text into ids and back. Safe to use from several threads.
class Tokenizer {
 public:
  /// From a SentencePiece model file's bytes. INVALID_ARGUMENT if they are none, or if the model has no end-of-text
  /// piece.
  static absl::StatusOr<Tokenizer> FromModel(std::string model);

  /// Long text is cut at line ends, where a piece never crosses.
  absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text) const;
  absl::StatusOr<std::string> Decode(const std::vector<uint32_t>& ids) const;

  int vocab_size() const { return pieces_.vocab_size(); }
  uint32_t eos_id() const { return static_cast<uint32_t>(pieces_.eos_id()); }
  const std::string& model() const { return model_; }

 private:
  Tokenizer(std::string model, SentencePiece pieces);

  std::string model_;
  SentencePiece pieces_;
};

/// Trains a unigram model with byte fallback, so that every text can be encoded and decoded to the same bytes. The same
/// sentences give the same model on every machine. INVALID_ARGUMENT if the text is too small for the vocabulary.
absl::StatusOr<std::string> TrainTokenizer(const std::vector<std::string>& sentences, int vocab_size);

/// Lines of evenly chosen documents, at most about `bytes_max` in all; a pure function of the corpus and of what
/// `is_training` says. Fails as CorpusReader does.
absl::StatusOr<std::vector<std::string>> SampleSentences(const Corpus& corpus, const std::string& text_key,
                                                         const std::function<bool(DocumentPosition)>& is_training,
                                                         uint64_t bytes_max);

}  // namespace normlab::cli
