#include "worker/trainer/export/export.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "common/durable_file.h"
#include "common/token_shard.h"
#include "worker/trainer/export/hugging_face_model.h"
#include "worker/trainer/export/run_checkpoint.h"
#include "worker/trainer/export/tokenizer_files.h"
#include "worker/trainer/train/safetensors.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;

// What tells an export from any other folder.
constexpr char kConfigFile[] = "config.json";
constexpr char kModelFile[] = "model.safetensors";

/// A folder beside `out` that takes its name in the end; removed unless it does.
class FolderBeside {
 public:
  explicit FolderBeside(const fs::path& out) : out_(out), path_(out) {
    path_ += fmt::format(".tmp-{}", getpid());
    std::error_code error;
    if (out.has_parent_path()) fs::create_directories(out.parent_path(), error);
    fs::remove_all(path_, error);
    if (!fs::create_directory(path_, error)) {
      throw FileError(fmt::format("cannot create folder {}", path_.string()), error.value());
    }
  }
  FolderBeside(const FolderBeside&) = delete;
  FolderBeside& operator=(const FolderBeside&) = delete;
  ~FolderBeside() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  /// With `replaces`, what was at `out` is exchanged with it in one step, and then removed.
  void TakeName(bool replaces) {
    SyncFolder(path_);
    const unsigned flags = replaces && fs::exists(out_) ? RENAME_EXCHANGE : RENAME_NOREPLACE;
    if (renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, out_.c_str(), flags) != 0) {
      throw FileError(fmt::format("cannot rename {} to {}", path_.string(), out_.string()), errno);
    }
    SyncFolder(out_.parent_path());
  }

  const fs::path& path() const { return path_; }

 private:
  fs::path out_;
  fs::path path_;
};

void RequireFree(const fs::path& out, bool replaces) {
  if (!fs::exists(out)) return;
  if (!replaces) {
    throw AlreadyThere(
        fmt::format("{} is there already: choose another folder, or replace it with --force", out.string()));
  }
  if (!fs::exists(out / kConfigFile)) {
    throw AlreadyThere(fmt::format("{} is there and has no {}, so it is no export: --force does not replace it",
                                   out.string(), kConfigFile));
  }
}

/// As HuggingFaceModel::Array says.
void Fold(const HuggingFaceModel::Array& array, const SafetensorsReader& reader, std::vector<float>& values) {
  std::vector<float> scales;
  if (!array.output_scale.empty()) {
    scales.resize(static_cast<size_t>(array.output_scale_size));
    reader.Read(array.output_scale, {array.output_scale_size}, scales);
  }
  const size_t outputs = static_cast<size_t>(array.is_output_last ? array.shape.back() : array.shape.front());
  const size_t inputs = values.size() / outputs;
  for (size_t i = 0; i < values.size(); ++i) {
    double scale = array.scale;
    if (scales.size() == 1) scale *= scales[0];
    if (scales.size() > 1) scale *= scales[array.is_output_last ? i % outputs : i / inputs];
    values[i] = static_cast<float>(values[i] * scale + array.offset);
  }
}

uint64_t WriteModel(const HuggingFaceModel& model, const fs::path& weights, const fs::path& folder) {
  const SafetensorsReader reader(weights);
  std::vector<std::vector<float>> values;
  std::vector<NamedArray> arrays;
  for (const HuggingFaceModel::Array& array : model.arrays) {
    int64_t count = 1;
    for (const int64_t size : array.shape) count *= size;
    values.emplace_back(static_cast<size_t>(count));
    reader.Read(array.source, array.shape, values.back());
    Fold(array, reader, values.back());
    arrays.push_back({array.name, array.shape, values.back()});
  }
  return WriteSafetensors(folder / kModelFile, arrays).bytes;
}

int64_t CountElements(const HuggingFaceModel& model) {
  int64_t sum = 0;
  for (const HuggingFaceModel::Array& array : model.arrays) {
    int64_t count = 1;
    for (const int64_t size : array.shape) count *= size;
    sum += count;
  }
  return sum;
}

std::vector<std::string> FilesIn(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

ExportResult ExportToHuggingFace(const ExportOptions& options) {
  const fs::path out = fs::absolute(options.out / "").parent_path();  // Without a slash at its end.
  RequireFree(out, options.replaces);
  const RunCheckpoint source = OpenRunCheckpoint(options.checkpoint);
  ExportResult result{.checkpoint = source.checkpoint.name,
                      .step = source.checkpoint.step,
                      .scheme = source.run.norm.scheme,
                      .notes = source.warnings};
  Manifest manifest{.vocab_size = source.vocab_size, .eos_id = -1};
  if (!options.data.empty()) manifest = ReadManifest(options.data);
  if (manifest.vocab_size != source.vocab_size) {
    throw PermanentError(fmt::format("{} has a vocabulary of {}, the run was trained with {}: it is another dataset",
                                     options.data.string(), manifest.vocab_size, source.vocab_size));
  }
  const HuggingFaceModel model = ExpressForHuggingFace(source.run, source.vocab_size, manifest.eos_id);
  result.architecture = model.architecture;
  result.num_parameters = CountElements(model);

  FolderBeside folder(out);
  result.bytes = static_cast<int64_t>(WriteModel(model, source.checkpoint.model_file, folder.path()));
  WriteFileDurably(folder.path() / kConfigFile, model.config.dump(2) + "\n");
  if (options.data.empty()) {
    result.notes.push_back("no tokenizer is exported: say where the run's dataset is");
  } else {
    const std::string note = WriteTokenizerFiles(options.data, manifest, source.run.data.seq_len, folder.path());
    if (!note.empty()) result.notes.push_back(note);
  }
  result.files = FilesIn(folder.path());
  folder.TakeName(options.replaces);
  return result;
}

}  // namespace normlab::trainer
