#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "worker/trainer/spec.h"
#include "worker/trainer/train/safetensors.h"

namespace normlab::trainer {

/// A Llama model as the transformers library stores it: config.json with model.safetensors, or with
/// model.safetensors.index.json and the files that it names. Weights may be float32, bfloat16 or float16.
class HuggingFaceFolder {
 public:
  /// Throws PermanentError if it is no Llama, or one that this trainer cannot compute (biases, scaled rotary positions,
  /// ...), with the setting that stands against it; std::runtime_error if a file is missing or damaged.
  explicit HuggingFaceFolder(const std::filesystem::path& path);

  const ModelSpec& model() const { return model_; }
  const NormSpec& norm() const { return norm_; }  // pre_ln: what Llama computes.
  int64_t vocab_size() const { return vocab_size_; }
  /// The longest sequence that it was made for.
  int64_t max_positions() const { return max_positions_; }

  /// Fills `values` with the parameter of that name (those of our Llama family are the same) as the trainer has it:
  /// where several heads share a key and value head, that head is repeated, and a head that is tied to the embedding is
  /// a copy of it. Throws std::runtime_error if it is missing or of another shape.
  void Read(const std::string& name, const std::vector<int64_t>& shape, std::span<float> values) const;

 private:
  void ReadConfig(const std::filesystem::path& path);
  void OpenWeights(const std::filesystem::path& folder);
  const SafetensorsReader& FileOf(const std::string& name) const;

  std::filesystem::path path_;
  ModelSpec model_{};
  NormSpec norm_{};
  int64_t vocab_size_ = 0;
  int64_t max_positions_ = 0;
  int64_t num_kv_heads_ = 0;
  bool is_head_tied_ = false;
  std::map<std::string, SafetensorsReader> files_;
  std::map<std::string, std::string> file_of_;  // By parameter.
};

}  // namespace normlab::trainer
