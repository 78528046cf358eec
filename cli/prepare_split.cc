#include "cli/prepare_split.h"

#include "fmt/format.h"

namespace normlab::cli {

nlohmann::json ToJson(const SplitState& state) {
  return {{"counts", manifest_internal::SplitJson(state.counts)},
          {"next", {{"file", state.next.file}, {"line", state.next.line}}}};
}

SplitState ReadSplitState(StrictObject object) {
  SplitState state{.counts = manifest_internal::ReadSplit(object.Child("counts"))};
  StrictObject next = object.Child("next");
  state.next = {.file = static_cast<uint64_t>(next.Int("file")), .line = static_cast<uint64_t>(next.Int("line"))};
  return state;
}

bool SplitWriter::Add(const EncodedDocument& document) {
  switch (document.kind) {
    case EncodedDocument::Kind::kEmpty:
      ++counts_.empty;
      return false;
    case EncodedDocument::Kind::kInvalid:
      ++counts_.invalid;
      return false;
    case EncodedDocument::Kind::kTokens:
      break;
  }
  if (writer_ == nullptr) {
    file_ = fmt::format("{}-{:05}.tokens", name_, counts_.shards.size());
    writer_ = std::make_unique<TokenShardWriter>(layout_.folder / file_, layout_.token_bytes, layout_.has_mask);
  }
  writer_->AppendDocument(document.tokens, document.num_given);
  ++counts_.documents;
  counts_.tokens += static_cast<int64_t>(document.tokens.size());
  counts_.text_bytes += static_cast<int64_t>(document.text_bytes);
  if (writer_->num_tokens() < layout_.shard_tokens) return false;
  FinishShard({.file = document.position.file, .line = document.position.line + 1});
  return true;
}

void SplitWriter::Finish(DocumentPosition end) {
  if (writer_ != nullptr) {
    FinishShard(end);
  } else {
    state_ = {.counts = counts_, .next = end};
  }
}

void SplitWriter::FinishShard(DocumentPosition next) {
  ManifestShard shard{.file = file_,
                      .tokens = static_cast<int64_t>(writer_->num_tokens()),
                      .documents = static_cast<int64_t>(writer_->num_documents())};
  writer_->Finish();
  writer_.reset();
  const absl::StatusOr<std::string> digest = Sha256OfFile(layout_.folder / file_);
  if (!digest.ok()) throw DatasetError(std::string(digest.status().message()));
  shard.sha256 = *digest;
  counts_.shards.push_back(std::move(shard));
  state_ = {.counts = counts_, .next = next};
}

}  // namespace normlab::cli
