// SentencePiece behind a header without abseil: Debian's sentencepiece_processor.h declares an absl::string_view of its
// own (0.1.97), which does not compile beside abseil's. Only sentence_piece.cc includes it, and it includes nothing of
// abseil.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace normlab::cli {

/// A loaded model. Functions that can fail return what went wrong; empty is good. Const methods may be called from
/// several threads.
class SentencePiece {
 public:
  SentencePiece();
  SentencePiece(SentencePiece&&) noexcept;
  SentencePiece& operator=(SentencePiece&&) noexcept;
  ~SentencePiece();

  std::string Load(std::string_view model);
  std::string Encode(std::string_view text, std::vector<int>* ids) const;
  std::string Decode(const std::vector<int>& ids, std::string* text) const;
  int vocab_size() const;
  /// -1 if there is none.
  int eos_id() const;

  static std::string Train(const std::unordered_map<std::string, std::string>& options,
                           const std::vector<std::string>& sentences, std::string* model);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace normlab::cli
