#pragma once

#include <filesystem>
#include <string>

#include "worker/trainer/spec.h"

namespace normlab::trainer {

constexpr int64_t kTinyVocabSize = 32;

/// Writes a dataset of 2,000 training tokens in two shards and 500 validation tokens into the folder: a noisy cycle
/// through the vocabulary, so that a model learns it in a few steps.
void WriteTinyDataset(const std::filesystem::path& folder);

/// Replaces it by a dataset of prompts and responses: documents of 3 to 20 tokens whose first part, of any length, is
/// no target, so that rows differ in their number of targets.
void WriteTinyPromptDataset(const std::filesystem::path& folder);

/// A run of 12 updates of 4 sequences of 8 tokens, by two layers of hidden size 16, below `folder`/data and
/// `folder`/checkpoints.
TrainerSpec TinySpec(const std::filesystem::path& folder);

/// The spec as the JSON that normlab-train reads.
std::string ToJson(const TrainerSpec& spec);

}  // namespace normlab::trainer
