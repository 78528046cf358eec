#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "worker/trainer/data/batch_reader.h"
#include "worker/trainer/diagnostics/stack.h"
#include "worker/trainer/model/transformer.h"

namespace normlab::trainer {

struct ProbeOptions {
  // One of these: a run's checkpoint (as OpenRunCheckpoint takes it), or a folder of the transformers library.
  std::filesystem::path checkpoint;
  std::filesystem::path model;
  std::filesystem::path data;  // The dataset; its validation split is read.
  int64_t seq_len = 0;         // 0: the run's, or 256 for a model of others.
  int64_t sequences = 64;      // Fewer if the split has fewer.
  int64_t batch = 8;           // Sequences of one forward.
};

/// A trained model and the text to look at it with.
class Probe {
 public:
  /// Throws PermanentError if model and dataset do not go together or one cannot be used, std::runtime_error if a file
  /// is damaged.
  explicit Probe(const ProbeOptions& options);

  const Transformer& model() const { return *model_; }
  int num_layers() const { return num_layers_; }
  int64_t seq_len() const { return seq_len_; }
  int64_t num_sequences() const { return static_cast<int64_t>(rows_.size()); }
  int64_t num_batches() const { return (num_sequences() + batch_ - 1) / batch_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

  /// The batch `index`, 0 to num_batches() - 1. The sequences are drawn from the whole split, always the same ones.
  ProbeBatch Batch(int64_t index);

  /// Valid as long as this is.
  BlockStack Stack() const;

  // What the results say of their origin.
  std::string source;  // "checkpoint" or "model", and its folder
  std::string name;    // The checkpoint's; empty for a model of others.
  std::string scheme;
  int64_t step = 0;

 private:
  void OpenCheckpoint(const ProbeOptions& options);
  void OpenModel(const ProbeOptions& options);
  void OpenRows(const ProbeOptions& options, const Manifest& manifest, DataForm form);

  std::unique_ptr<Transformer> model_;
  std::unique_ptr<RowReader> reader_;
  std::vector<int64_t> rows_;
  std::vector<std::string> warnings_;
  int num_layers_ = 0;
  int64_t seq_len_ = 0;
  int64_t batch_ = 0;
};

}  // namespace normlab::trainer
