// One split of a dataset as it grows, shard by shard, so that the work can go on where it was killed.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/corpus.h"
#include "cli/prepare_encode.h"
#include "common/token_shard.h"

namespace normlab::cli {

/// A split as of the end of a shard: what its finished shards hold, and the first document that is not in them.
struct SplitState {
  ManifestSplit counts;
  DocumentPosition next;
};

nlohmann::json ToJson(const SplitState& state);
/// Throws JsonError.
SplitState ReadSplitState(StrictObject object);

struct ShardLayout {
  std::filesystem::path folder;
  uint32_t token_bytes = 2;
  bool has_mask = false;
  /// A shard ends with the document that reaches it.
  uint64_t shard_tokens = 64 << 20;
};

/// Writes documents as shards NAME-00000.tokens and so on. Throws FileError and DatasetError. A finished shard is on
/// disk; what came after is lost when the process dies.
class SplitWriter {
 public:
  SplitWriter(const ShardLayout& layout, std::string name, SplitState state)
      : layout_(layout), name_(std::move(name)), state_(std::move(state)), counts_(state_.counts) {}

  /// Adds or counts a document. Returns true if a shard was finished with it, so that `state` has changed.
  bool Add(const EncodedDocument& document);

  /// Ends the last shard. `end` is behind the last document of the corpus.
  void Finish(DocumentPosition end);

  const SplitState& state() const { return state_; }
  /// With the shard that is being written.
  const ManifestSplit& counts() const { return counts_; }

 private:
  void FinishShard(DocumentPosition next);

  const ShardLayout layout_;
  const std::string name_;
  SplitState state_;
  ManifestSplit counts_;
  std::string file_;
  std::unique_ptr<TokenShardWriter> writer_;
};

}  // namespace normlab::cli
