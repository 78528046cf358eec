#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "worker/trainer/events.h"
#include "worker/trainer/train/safetensors.h"

namespace normlab::trainer {

/// Weights that a run starts from (train.init_from). The folder is one of
///   - a run's checkpoints: the newest whose digests are right,
///   - one checkpoint,
///   - a Hugging Face model: model.safetensors, or shards named by model.safetensors.index.json.
class InitialWeights {
 public:
  /// Throws PermanentError if the folder is none of them or a file is damaged. Warnings about damaged checkpoints go to
  /// `events`.
  InitialWeights(const std::filesystem::path& folder, EventSink& events);

  /// Fills `values` with the array of that name. A head that is missing is the embedding, as tied models are stored.
  /// Throws PermanentError if there is none, or if its shape is another.
  void Read(const std::string& name, const std::vector<int64_t>& shape, std::span<float> values);

  /// Throws PermanentError if an array was not read: the folder then holds another model than the spec describes.
  void RequireAllRead() const;

  /// What was opened, for people.
  const std::string& source() const { return source_; }

 private:
  void Add(const std::filesystem::path& file);

  std::string source_;
  std::vector<std::unique_ptr<SafetensorsReader>> files_;
  struct Place {
    const SafetensorsReader* file;
    bool was_read = false;
  };
  std::map<std::string, Place> places_;
};

}  // namespace normlab::trainer
