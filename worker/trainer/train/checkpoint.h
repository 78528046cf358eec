#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "worker/trainer/events.h"
#include "worker/trainer/train/safetensors.h"

// A run's checkpoints. One is a folder, written under a temporary name, synced and renamed, so that it is complete or
// not there:
//
//   checkpoints := folder with any number of "step-" STEP ".attempt-" ATTEMPT      8 and 3 digits or more
//   checkpoint  := model.safetensors      weights, by their Hugging Face names
//                  optimizer.safetensors  "exp_avg." NAME and "exp_avg_sq." NAME for each weight; with
//                                         train.param_dtype fp32_master also "master." NAME, before rounding
//                  state.json
//   state.json  := {"state": state, "sha256": SHA-256 of state in its compact form}
//   state       := {"format": "normlab-checkpoint-v1", "step": N, "tokens": N, "clipped_updates": N,
//                   "updates_above_bound": N,
//                   "fingerprint": [[FIELD, VALUE], ...],
//                   "run": the RunSpec as JSON; null if the trainer was not given JSON,
//                   "files": {NAME: {"bytes": N, "sha256": HEX}, ...}}
//   temporary   := ".tmp-" checkpoint's name
//
// Data order and weights' start follow from the spec's seed, and nothing else is random: step and tokens are the whole
// position. A changed or missing byte of any file is found by its digest. No torch here.
namespace normlab::trainer {

/// What must be equal for a run to go on from a checkpoint: (field, value) in a fixed order.
using Fingerprint = std::vector<std::pair<std::string, std::string>>;

struct CheckpointName {
  int64_t step;
  int attempt;

  std::string ToText() const;
  static std::optional<CheckpointName> Parse(const std::string& text);
  /// By step; of one step, the later attempt is the greater.
  auto operator<=>(const CheckpointName&) const = default;
};

/// A checkpoint whose digests were verified.
struct VerifiedCheckpoint {
  std::string name;
  std::filesystem::path model_file;
  std::filesystem::path optimizer_file;
  int64_t step;
  int64_t tokens;
  int64_t clipped_updates;
  int64_t updates_above_bound;
  Fingerprint fingerprint;
  std::string run_json;  // As CheckpointContent's.
};

struct CheckpointContent {
  int64_t step;
  int64_t tokens;               // Targets since the run's first update.
  int64_t clipped_updates;      // Likewise.
  int64_t updates_above_bound;  // The last ones in a row with a loss above train.divergence_loss.
  Fingerprint fingerprint;
  std::string run_json;  // What ParseRunSpec reads, for programs that get nothing but the checkpoint; may be empty.
  std::vector<NamedArray> model;
  std::vector<NamedArray> optimizer;
};

/// The checkpoints of one run, for one attempt. Two attempts may use the folder at once (a lost worker may not know yet
/// that it is): they write different names, and neither removes what a later attempt wrote. One thread.
class CheckpointFolder {
 public:
  struct Options {
    std::filesystem::path path;
    int attempt;
    int resume_from_attempt;       // Checkpoints of attempts before this one are neither used nor removed.
    int kept;                      // Newest ones that are kept, at least 1.
    int64_t keep_every_steps = 0;  // Beside them, those of multiples of this are never removed. 0: none.
  };

  /// Creates the folder and removes what interrupted writes of this and earlier attempts left. Throws FileError.
  explicit CheckpointFolder(Options options);

  /// The newest checkpoint whose files are as they were written. Damaged ones are skipped, each with a WARNING to
  /// `events` that names the file and what is wrong.
  std::optional<VerifiedCheckpoint> FindNewest(EventSink& events);

  /// Writes a checkpoint, durable when this returns, and then removes those that need not be kept. On error, such as a
  /// full disk, throws std::runtime_error with path and bytes; nothing of it is left and the earlier ones are
  /// untouched.
  CheckpointSaved Write(const CheckpointContent& content);

 private:
  uint64_t WriteFolder(const CheckpointName& name, const CheckpointContent& content) const;
  std::vector<CheckpointName> ListNewestFirst() const;
  void RemoveOld(const CheckpointName& newest) const;

  Options options_;
  std::set<CheckpointName> damaged_;
};

/// The checkpoint `folder`. Throws std::runtime_error that says what is damaged or missing, PermanentError for another
/// format.
VerifiedCheckpoint VerifyCheckpoint(const std::filesystem::path& folder);

/// Throws PermanentError that names the first field in which the checkpoint differs from what the spec asks for.
void RequireSameFingerprint(const VerifiedCheckpoint& checkpoint, const Fingerprint& wanted);

}  // namespace normlab::trainer
