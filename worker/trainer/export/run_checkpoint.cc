#include "worker/trainer/export/run_checkpoint.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;

struct Warnings : EventSink {
  void Emit(const TrainerEvent& event) override {
    if (const auto* line = std::get_if<LogLine>(&event)) texts.push_back(line->text);
  }
  std::vector<std::string> texts;
};

VerifiedCheckpoint FindCheckpoint(const fs::path& folder, std::vector<std::string>* warnings) {
  if (!fs::is_directory(folder)) throw PermanentError(fmt::format("{} is no folder", folder.string()));
  if (fs::exists(folder / "state.json")) return VerifyCheckpoint(folder);
  // Attempt 0 is before all others: nothing that an attempt wrote is removed.
  CheckpointFolder checkpoints({.path = folder, .attempt = 0, .resume_from_attempt = 0, .kept = 1});
  Warnings sink;
  const auto newest = checkpoints.FindNewest(sink);
  *warnings = sink.texts;
  if (newest) return *newest;
  if (sink.texts.empty()) {
    throw PermanentError(
        fmt::format("{} holds no checkpoint (a folder such as step-00001000.attempt-001)", folder.string()));
  }
  throw PermanentError(fmt::format("{} holds no good checkpoint: {}", folder.string(), sink.texts.front()));
}

int64_t VocabSizeOf(const VerifiedCheckpoint& checkpoint) {
  for (const auto& [field, value] : checkpoint.fingerprint) {
    int64_t vocab_size = 0;
    if (field == "the dataset's vocab_size" &&
        std::from_chars(value.data(), value.data() + value.size(), vocab_size).ec == std::errc()) {
      return vocab_size;
    }
  }
  throw PermanentError(fmt::format("checkpoint {} does not say its vocabulary", checkpoint.name));
}

}  // namespace

RunCheckpoint OpenRunCheckpoint(const fs::path& folder) {
  std::vector<std::string> warnings;
  const VerifiedCheckpoint checkpoint = FindCheckpoint(folder, &warnings);
  if (checkpoint.run_json.empty()) {
    throw PermanentError(fmt::format(
        "checkpoint {} does not say which run it belongs to (an earlier normlab wrote it): continue the run, and its "
        "next checkpoint will",
        checkpoint.name));
  }
  return {.checkpoint = checkpoint,
          .run = ParseRunSpec(checkpoint.run_json),
          .vocab_size = VocabSizeOf(checkpoint),
          .warnings = std::move(warnings)};
}

}  // namespace normlab::trainer
