#pragma once

#include <filesystem>
#include <string>

#include "common/token_shard.h"

namespace normlab::trainer {

/// Writes the tokenizer of the dataset `data` into `folder`, as the transformers library reads it: tokenizer.model as
/// it is, and for a unigram model tokenizer.json, which AutoTokenizer loads with no conversion. The ids are those of
/// the dataset. Returns what the reader of the export should know, empty if all is well. Throws PermanentError if the
/// tokenizer is not the one that the manifest names, FileError if a file cannot be read or written.
std::string WriteTokenizerFiles(const std::filesystem::path& data, const Manifest& manifest, int64_t seq_len,
                                const std::filesystem::path& folder);

}  // namespace normlab::trainer
