#include "cli/sentence_piece.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

namespace normlab::cli {
namespace {

std::string MessageOf(const sentencepiece::util::Status& status) {
  if (status.ok()) return "";
  const std::string message = status.error_message();
  // "./src/x.cc(660) [condition] text": people need the text; without one, the condition.
  const size_t bracket = message.find("] ");
  if (message.starts_with("./") && bracket != std::string::npos && bracket + 2 < message.size()) {
    return message.substr(bracket + 2);
  }
  return message.empty() ? "unknown error" : message;
}

/// Hands over sentences one by one, in order.
class VectorIterator : public sentencepiece::SentenceIterator {
 public:
  explicit VectorIterator(const std::vector<std::string>& sentences) : sentences_(sentences) {}
  bool done() const override { return next_ == sentences_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return sentences_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& sentences_;
  size_t next_ = 0;
};

}  // namespace

struct SentencePiece::Impl {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePiece::SentencePiece() : impl_(std::make_unique<Impl>()) {}
SentencePiece::SentencePiece(SentencePiece&&) noexcept = default;
SentencePiece& SentencePiece::operator=(SentencePiece&&) noexcept = default;
SentencePiece::~SentencePiece() = default;

std::string SentencePiece::Load(std::string_view model) {
  return MessageOf(impl_->processor.LoadFromSerializedProto(model));
}

std::string SentencePiece::Encode(std::string_view text, std::vector<int>* ids) const {
  return MessageOf(impl_->processor.Encode(text, ids));
}

std::string SentencePiece::Decode(const std::vector<int>& ids, std::string* text) const {
  return MessageOf(impl_->processor.Decode(ids, text));
}

int SentencePiece::vocab_size() const { return impl_->processor.GetPieceSize(); }
int SentencePiece::eos_id() const { return impl_->processor.eos_id(); }

std::string SentencePiece::Train(const std::unordered_map<std::string, std::string>& options,
                                 const std::vector<std::string>& sentences, std::string* model) {
  VectorIterator iterator(sentences);
  return MessageOf(sentencepiece::SentencePieceTrainer::Train(options, &iterator, model));
}

}  // namespace normlab::cli
