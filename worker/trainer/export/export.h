#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace normlab::trainer {

struct ExportOptions {
  std::filesystem::path checkpoint;  // As OpenRunCheckpoint takes it.
  std::filesystem::path data;        // The run's dataset, for its tokenizer; empty: no tokenizer.
  std::filesystem::path out;         // The folder to make.
  bool replaces = false;             // An export that is there already.
};

struct ExportResult {
  std::string checkpoint;
  int64_t step;
  std::string scheme;
  std::string architecture;
  int64_t num_parameters;
  int64_t bytes;
  std::vector<std::string> files;
  std::vector<std::string> notes;
};

/// `out` is there and may not be replaced.
struct AlreadyThere : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Makes a folder that the transformers library loads with no code of ours: config.json, model.safetensors (float32)
/// and the tokenizer. It is written beside `out` and renamed, so that `out` is complete or not there. Throws
/// NotExpressible, AlreadyThere, PermanentError, or another std::runtime_error for a disk that fails; nothing is left
/// then.
ExportResult ExportToHuggingFace(const ExportOptions& options);

}  // namespace normlab::trainer
