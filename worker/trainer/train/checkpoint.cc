#include "worker/trainer/train/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <system_error>

#include "common/durable_file.h"
#include "common/strict_json.h"
#include "worker/trainer/spec.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr char kFormat[] = "normlab-checkpoint-v1";
constexpr char kModelFile[] = "model.safetensors";
constexpr char kOptimizerFile[] = "optimizer.safetensors";
constexpr char kStateFile[] = "state.json";
constexpr std::string_view kTemporaryPrefix = ".tmp-";

/// What is wrong with a checkpoint, for the warning.
struct Damage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Removes a folder unless it was kept.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(fs::path path) : path_(std::move(path)) {
    std::error_code error;
    fs::remove_all(path_, error);
    if (!fs::create_directory(path_, error)) {
      throw FileError(fmt::format("cannot create folder {}", path_.string()), error.value());
    }
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!is_kept_) fs::remove_all(path_, ignored);
  }
  void KeepAs(const fs::path& name) {
    SyncFolder(path_);
    // There is one already only if it was found damaged, or if the same attempt is run again by hand.
    fs::remove_all(name);
    RenameDurably(path_, name);
    is_kept_ = true;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  bool is_kept_ = false;
};

uint64_t ArrayBytes(const std::vector<NamedArray>& arrays) {
  uint64_t bytes = 0;
  for (const NamedArray& array : arrays) bytes += array.values.size_bytes();
  return bytes;
}

ordered_json StateJson(const CheckpointContent& content, const FileDigest& model, const FileDigest& optimizer) {
  const auto entry = [](const FileDigest& digest) {
    return ordered_json{{"bytes", digest.bytes}, {"sha256", digest.sha256}};
  };
  ordered_json fingerprint = ordered_json::array();
  for (const auto& [field, value] : content.fingerprint) fingerprint.push_back(ordered_json::array({field, value}));
  const ordered_json state = {
      {"format", kFormat},
      {"step", content.step},
      {"tokens", content.tokens},
      {"clipped_updates", content.clipped_updates},
      {"updates_above_bound", content.updates_above_bound},
      {"fingerprint", std::move(fingerprint)},
      {"run", content.run_json.empty() ? ordered_json() : ordered_json::parse(content.run_json)},
      {"files", {{kModelFile, entry(model)}, {kOptimizerFile, entry(optimizer)}}}};
  return {{"state", state}, {"sha256", Sha256Of(state.dump())}};
}

ordered_json ReadStateJson(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Damage(fmt::format("{} cannot be opened", path.string()));
  ordered_json document = ordered_json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object() || !document.contains("state") || !document.contains("sha256")) {
    throw Damage(fmt::format("{} is cut short or not JSON", path.string()));
  }
  if (const std::string actual = Sha256Of(document["state"].dump()); document["sha256"] != actual) {
    throw Damage(fmt::format("{} was changed: its SHA-256 is {}, {} was written", path.string(), actual,
                             document["sha256"].dump()));
  }
  return document["state"];
}

void VerifyFile(const fs::path& path, StrictObject entry) {
  const auto expected_bytes = static_cast<uint64_t>(entry.Int("bytes"));
  const std::string expected_sha256 = entry.Text("sha256");
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (error) throw Damage(fmt::format("{} cannot be read: {}", path.string(), error.message()));
  if (bytes != expected_bytes) {
    throw Damage(fmt::format("{} has {} bytes, {} were written", path.string(), bytes, expected_bytes));
  }
  if (const std::string sha256 = DigestFile(path).sha256; sha256 != expected_sha256) {
    throw Damage(
        fmt::format("{} was changed: its SHA-256 is {}, {} was written", path.string(), sha256, expected_sha256));
  }
}

/// Throws Damage.
VerifiedCheckpoint Verify(const fs::path& folder) {
  const ordered_json ordered = ReadStateJson(folder / kStateFile);
  const nlohmann::json document = ordered;
  try {
    StrictObject state(document, "");
    if (const std::string format = state.Text("format"); format != kFormat) {
      throw PermanentError(fmt::format("{} has format \"{}\", this program reads \"{}\": requeue with --from-scratch",
                                       folder.string(), format, kFormat));
    }
    StrictObject files = state.Child("files");
    VerifyFile(folder / kModelFile, files.Child(kModelFile));
    VerifyFile(folder / kOptimizerFile, files.Child(kOptimizerFile));
    return {.name = folder.filename().string(),
            .model_file = folder / kModelFile,
            .optimizer_file = folder / kOptimizerFile,
            .step = state.Int("step"),
            .tokens = state.Int("tokens"),
            .clipped_updates = state.Int("clipped_updates"),
            .updates_above_bound = state.Int("updates_above_bound"),
            .fingerprint = state.Member("fingerprint").get<Fingerprint>(),
            .run_json = document.value("run", nlohmann::json()).is_null() ? "" : document["run"].dump()};
  } catch (const JsonError& error) {
    throw Damage(fmt::format("{}: {}", (folder / kStateFile).string(), error.what()));
  } catch (const nlohmann::json::exception& error) {
    throw Damage(fmt::format("{}: {}", (folder / kStateFile).string(), error.what()));
  } catch (const FileError& error) {
    throw Damage(error.what());
  }
}

}  // namespace

std::string CheckpointName::ToText() const { return fmt::format("step-{:08}.attempt-{:03}", step, attempt); }

std::optional<CheckpointName> CheckpointName::Parse(const std::string& text) {
  constexpr std::string_view kStep = "step-", kAttempt = ".attempt-";
  const size_t middle = text.find(kAttempt);
  if (!text.starts_with(kStep) || middle == std::string::npos) return std::nullopt;
  CheckpointName name{};
  std::from_chars(text.data() + kStep.size(), text.data() + middle, name.step);
  std::from_chars(text.data() + middle + kAttempt.size(), text.data() + text.size(), name.attempt);
  // Only the one way of writing it: "step-1.attempt-1x" is somebody else's.
  if (name.ToText() != text) return std::nullopt;
  return name;
}

CheckpointFolder::CheckpointFolder(Options options) : options_(std::move(options)) {
  std::error_code error;
  fs::create_directories(options_.path, error);
  if (error) throw FileError(fmt::format("cannot create folder {}", options_.path.string()), error.value());
  for (const auto& entry : fs::directory_iterator(options_.path)) {
    const std::string text = entry.path().filename().string();
    if (!text.starts_with(kTemporaryPrefix)) continue;
    const auto name = CheckpointName::Parse(text.substr(kTemporaryPrefix.size()));
    if (name && name->attempt <= options_.attempt) fs::remove_all(entry.path(), error);
  }
}

std::optional<VerifiedCheckpoint> CheckpointFolder::FindNewest(EventSink& events) {
  for (const CheckpointName& name : ListNewestFirst()) {
    try {
      return Verify(options_.path / name.ToText());
    } catch (const Damage& damage) {
      damaged_.insert(name);
      events.Emit(LogLine{.severity = Severity::kWarning,
                          .text = fmt::format("checkpoint {} is damaged, the one before it is used: {}", name.ToText(),
                                              damage.what())});
    }
  }
  return std::nullopt;
}

CheckpointSaved CheckpointFolder::Write(const CheckpointContent& content) {
  const CheckpointName name{.step = content.step, .attempt = options_.attempt};
  uint64_t bytes = 0;
  try {
    bytes = WriteFolder(name, content);
  } catch (const FileError& error) {
    throw std::runtime_error(
        fmt::format("checkpoint {} ({} bytes of arrays) was not saved, earlier ones are intact: {}", name.ToText(),
                    ArrayBytes(content.model) + ArrayBytes(content.optimizer), error.what()));
  }
  damaged_.erase(name);
  RemoveOld(name);
  return {.step = content.step, .name = name.ToText(), .bytes = static_cast<int64_t>(bytes)};
}

uint64_t CheckpointFolder::WriteFolder(const CheckpointName& name, const CheckpointContent& content) const {
  TemporaryFolder folder(options_.path / (std::string(kTemporaryPrefix) + name.ToText()));
  const FileDigest model = WriteSafetensors(folder.path() / kModelFile, content.model);
  const FileDigest optimizer = WriteSafetensors(folder.path() / kOptimizerFile, content.optimizer);
  const std::string state = StateJson(content, model, optimizer).dump(1) + "\n";
  DurableFile state_file(folder.path() / kStateFile);
  state_file.Write(state.data(), state.size());
  state_file.Close();
  folder.KeepAs(options_.path / name.ToText());
  return model.bytes + optimizer.bytes + state.size();
}

std::vector<CheckpointName> CheckpointFolder::ListNewestFirst() const {
  std::vector<CheckpointName> names;
  for (const auto& entry : fs::directory_iterator(options_.path)) {
    const auto name = CheckpointName::Parse(entry.path().filename().string());
    if (name && name->attempt >= options_.resume_from_attempt) names.push_back(*name);
  }
  std::sort(names.begin(), names.end(), std::greater<>());
  return names;
}

void CheckpointFolder::RemoveOld(const CheckpointName& newest) const {
  int num_kept = 0;
  for (const CheckpointName& name : ListNewestFirst()) {
    // A damaged one must not push out a good one.
    const bool is_good = name == newest || !damaged_.contains(name);
    const bool is_among_newest = is_good && num_kept < options_.kept;
    const bool is_milestone = options_.keep_every_steps > 0 && name.step % options_.keep_every_steps == 0;
    if (is_among_newest) ++num_kept;
    if (!is_among_newest && !is_milestone && name.attempt <= options_.attempt) {
      std::error_code ignored;  // What cannot be removed costs space only; the next write tries again.
      fs::remove_all(options_.path / name.ToText(), ignored);
    }
  }
}

VerifiedCheckpoint VerifyCheckpoint(const fs::path& folder) { return Verify(folder); }

void RequireSameFingerprint(const VerifiedCheckpoint& checkpoint, const Fingerprint& wanted) {
  const Fingerprint& saved = checkpoint.fingerprint;
  for (size_t i = 0; i < std::max(saved.size(), wanted.size()); ++i) {
    if (i < saved.size() && i < wanted.size() && saved[i] == wanted[i]) continue;
    const std::string field = i < wanted.size() ? wanted[i].first : saved[i].first;
    const auto value = [&](const Fingerprint& fields) {
      for (const auto& [name, text] : fields) {
        if (name == field) return text;
      }
      return std::string("no such field");
    };
    throw PermanentError(
        fmt::format("checkpoint {} (step {}) was made with {} = {}, the spec asks for {}: requeue with --from-scratch, "
                    "or put the old value back",
                    checkpoint.name, checkpoint.step, field, value(saved), value(wanted)));
  }
}

}  // namespace normlab::trainer
