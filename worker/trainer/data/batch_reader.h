#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/token_shard.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/data/sampler.h"
#include "worker/trainer/spec.h"

namespace normlab::trainer {

/// A split as rows of `seq_len` inputs and targets. One thread.
///
/// Packed: the split's tokens cut into windows of seq_len + 1 that start every seq_len, so that each token but the
/// split's first is predicted at most once; the rest that does not fill a window is not used.
///
/// Documents: one document a row, as in the runs behind the published tables (arXiv:2502.05795): of a document of more
/// than seq_len tokens the first seq_len - 1 and the end-of-text token, no matter what it was cut from; a shorter one
/// is padded on the right. The last token of a row and the padding predict nothing.
///
/// In both forms a token that the dataset's mask excludes is an input but no target. What is no target is
/// kIgnoredTarget.
class RowReader {
 public:
  RowReader(TokenSplit split, DataForm form, int64_t seq_len, int64_t vocab_size, int64_t eos_id);

  int64_t NumRows() const;

  /// Fills one row; both spans have seq_len places. Returns how many targets count. Throws DatasetError for a changed
  /// byte or a token that is not below the vocabulary's size.
  int64_t Read(int64_t row, std::span<int64_t> inputs, std::span<int64_t> targets);

  TokenSplit& split() { return split_; }
  const TokenSplit& split() const { return split_; }

 private:
  void ReadTokens(int64_t row, int64_t first, std::span<int64_t> tokens, std::span<uint8_t> is_target);

  TokenSplit split_;
  DataForm form_;
  int64_t seq_len_;
  int64_t vocab_size_;
  int64_t eos_id_;
  std::vector<int64_t> tokens_;
  std::vector<uint8_t> is_target_;
};

/// Opens a run's dataset and hands out its batches: a pure function of (seed, step, place in the global batch), the
/// same for every scheme and world size and after a resume. One thread.
class BatchReader {
 public:
  /// Checks what would go wrong later: manifest, the tokenizer's hash, every shard's size, header and largest token,
  /// that both splits have a row, and then blocks' checksums, validation first, until `is_time_over` says true (it is
  /// asked between blocks; blocks that were not reached are checked when they are first read). Throws PermanentError.
  BatchReader(const TrainerSpec& spec, const std::function<bool()>& is_time_over);

  const Manifest& manifest() const { return manifest_; }
  int64_t num_train_rows() const { return train_.NumRows(); }
  int64_t num_validation_rows() const { return validation_.NumRows(); }

  /// Sequences [first, first + count) of the global batch of the 1-based `step`. `inputs` and `targets` are
  /// [count, seq_len]. Returns how many targets count. Throws as RowReader::Read does.
  int64_t ReadTrain(int64_t step, int64_t first, int64_t count, int64_t* inputs, int64_t* targets);

  /// Rows [first, first + count) of the validation split, in its order; otherwise as ReadTrain.
  int64_t ReadValidation(int64_t first, int64_t count, int64_t* inputs, int64_t* targets);

 private:
  Manifest manifest_;
  int64_t seq_len_;
  RowReader train_;
  RowReader validation_;
  TrainSampler sampler_;
};

/// Is over `seconds` after this call, by the steady clock.
std::function<bool()> TimeLimit(double seconds);

}  // namespace normlab::trainer
