// `normlab data prepare` without its flags: text in, a dataset folder out.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/token_shard.h"

namespace normlab::cli {

struct PrepareOptions {
  std::filesystem::path out;
  std::vector<std::string> inputs;
  std::string tokenizer;  // A SentencePiece model; empty: train one.
  int vocab_size = 4096;  // Of the trained one.
  int validation_every = 20;
  bool is_silent = false;  // No progress on stderr.
};

struct PrepareResult {
  Manifest manifest;
  bool was_there = false;  // The folder already held just this.
  int skipped_files = 0;
  int64_t text_bytes = 0;  // 0 if it was there.
};

/// Every `validation_every`-th file (in order of name, or the last one if there are fewer) goes to validation, the
/// others to training. The manifest is written last: a folder without one is started over, a folder whose inputs and
/// options are the same is left alone, one with others is refused (FAILED_PRECONDITION), because runs may depend on it.
absl::StatusOr<PrepareResult> Prepare(const PrepareOptions& options);

}  // namespace normlab::cli
