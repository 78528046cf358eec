#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "worker/trainer/spec.h"
#include "worker/trainer/train/checkpoint.h"

namespace normlab::trainer {

/// A checkpoint with what it was trained as.
struct RunCheckpoint {
  VerifiedCheckpoint checkpoint;
  RunSpec run;
  int64_t vocab_size;
  std::vector<std::string> warnings;  // Newer checkpoints that are damaged.
};

/// `folder` is one checkpoint, or the folder of a run's checkpoints, of which the newest good one is taken. Nothing is
/// changed there, so a trainer may be writing to it. Throws PermanentError if there is none or if it does not say its
/// run, std::runtime_error if the one checkpoint that was asked for is damaged.
RunCheckpoint OpenRunCheckpoint(const std::filesystem::path& folder);

}  // namespace normlab::trainer
