// Whether a dataset on disk is still what its manifest says.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "absl/status/statusor.h"
#include "common/token_shard.h"

namespace normlab::cli {

/// Reads every byte of the dataset in `folder`: the tokenizer's and each shard's SHA-256, sizes, counts and largest
/// token. Returns the manifest. DATA_LOSS naming the first file that differs and how. Tells `on_bytes` after each file
/// how many bytes were read.
absl::StatusOr<Manifest> CheckDataset(const std::filesystem::path& folder,
                                      const std::function<void(uint64_t)>& on_bytes);

}  // namespace normlab::cli
