// `normlab data prepare` without its flags: text in, a dataset folder out.
#pragma once

#include <atomic>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/token_shard.h"

namespace normlab::cli {

struct PrepareOptions {
  std::filesystem::path out;
  std::vector<std::string> inputs;
  std::vector<std::string> validation;  // Held out as a whole; empty: every validation_every-th document of `inputs`.
  int validation_every = 20;
  std::string tokenizer;  // A SentencePiece model; empty: train one.
  int vocab_size = 4096;  // Of the trained one.
  std::string text_key = "text";
  bool is_sft = false;  // Prompts and responses; the loss is on the responses.
  std::string prompt_key = "prompt";
  std::string response_key = "response";
  bool skips_invalid = false;  // Documents that cannot be read are counted, and do not end the work.
  int64_t shard_tokens = 64 << 20;
  int threads = 0;         // 0: as many as the machine has.
  bool is_silent = false;  // No progress on stderr.
};

struct PrepareResult {
  Manifest manifest;
  bool was_there = false;  // The folder already held just this.
  int skipped_files = 0;
  int64_t resumed_shards = 0;  // Kept from a call that did not come to its end.
};

/// A document is a text file or a line of JSON. Without `validation`, the K-th, 2K-th, ... file in order of name goes
/// to validation if it is text; of file i in that order (from 0), line j (from 0) does if i + j leaves K - 1 when
/// divided by K = validation_every. Text files that are fewer than K give their last one.
///
/// The bytes of the result depend on the inputs and options, not on the number of threads or on how often the work was
/// interrupted: finished shards are kept, and the same call goes on behind them. The manifest is written last; a folder
/// whose inputs and options are the same is left alone, one with others is refused (FAILED_PRECONDITION), because runs
/// may depend on it. CANCELLED soon after `stop` is set; DATA_LOSS or INVALID_ARGUMENT naming the file and line that
/// cannot be read; INTERNAL naming the file that cannot be written. Memory: the tokenizer, a window of some documents,
/// and the largest one.
absl::StatusOr<PrepareResult> Prepare(const PrepareOptions& options, const std::atomic<bool>& stop);

}  // namespace normlab::cli
