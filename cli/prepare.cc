#include "cli/prepare.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <thread>

#include "cli/corpus.h"
#include "cli/corpus_reader.h"
#include "cli/prepare_document.h"
#include "cli/prepare_encode.h"
#include "cli/prepare_progress.h"
#include "cli/prepare_split.h"
#include "cli/progress_line.h"
#include "cli/tokenizer.h"
#include "cli/units.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kTokenizerFile[] = "tokenizer.model";
// What is done so far; gone once there is a manifest.
constexpr char kStateFile[] = "prepare.json";
// A change of what `prepare` makes of the same input needs another number here.
constexpr int kRecipe = 2;
// Of the text that the tokenizer is trained on. More takes gigabytes of memory and changes few pieces.
constexpr uint64_t kSampleBytesPerPiece = 1 << 10;
constexpr uint64_t kSampleBytesMin = 4 << 20;
constexpr uint64_t kSampleBytesMax = 16 << 20;

/// What a folder without a manifest was to become, and how far it is.
struct PrepareState {
  nlohmann::json source;
  std::string tokenizer_sha256;
  SplitState train;
  SplitState validation;
};

void WriteState(const fs::path& out, const PrepareState& state) {
  const nlohmann::json document = {{"source", state.source},
                                   {"tokenizer_sha256", state.tokenizer_sha256},
                                   {"train", ToJson(state.train)},
                                   {"validation", ToJson(state.validation)}};
  WriteFileDurably(out / kStateFile, document.dump(2) + "\n");
}

absl::StatusOr<std::string> ReadWholeFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::InvalidArgumentError(
        fmt::format("cannot read {}: {}", path.string(), std::generic_category().message(errno)));
  }
  return std::string(std::istreambuf_iterator<char>(file), {});
}

/// True if every shard that a state counts as finished is there with its size and header.
bool HasShards(const fs::path& out, const ManifestSplit& split) {
  return std::all_of(split.shards.begin(), split.shards.end(), [&](const ManifestShard& shard) {
    std::ifstream file(out / shard.file, std::ios::binary | std::ios::ate);
    const auto bytes = static_cast<int64_t>(file.tellg());
    std::array<char, kShardHeaderBytes> header{};
    file.seekg(0).read(header.data(), header.size());
    if (!file) return false;
    try {
      return DecodeShardHeader(header.data(), static_cast<uint64_t>(bytes), out / shard.file).num_tokens ==
             static_cast<uint64_t>(shard.tokens);
    } catch (const DatasetError&) {
      return false;
    }
  });
}

/// The state that an interrupted call for this source left in `out`; nothing if there is none that can be used.
std::optional<PrepareState> FindState(const fs::path& out, const nlohmann::json& source) {
  const auto text = ReadWholeFile(out / kStateFile);
  const auto model = ReadWholeFile(out / kTokenizerFile);
  if (!text.ok() || !model.ok()) return std::nullopt;
  try {
    const nlohmann::json document = nlohmann::json::parse(*text);
    StrictObject object(document, "");
    PrepareState state{.source = object.Member("source"),
                       .tokenizer_sha256 = object.Text("tokenizer_sha256"),
                       .train = ReadSplitState(object.Child("train")),
                       .validation = ReadSplitState(object.Child("validation"))};
    const bool is_usable = state.source == source && state.tokenizer_sha256 == Sha256Hex(*model) &&
                           HasShards(out, state.train.counts) && HasShards(out, state.validation.counts);
    return is_usable ? std::optional(std::move(state)) : std::nullopt;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  } catch (const JsonError&) {
    return std::nullopt;
  }
}

/// Removes what an earlier call left that the new one would not replace.
void RemoveLeftovers(const fs::path& out) {
  std::vector<fs::path> leftovers = {out / kStateFile, out / kTokenizerFile};
  for (const auto& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    const bool is_ours = name.starts_with("train-") || name.starts_with("validation-");
    if (is_ours && (name.ends_with(".tokens") || name.ends_with(".tokens.tmp"))) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove(path);
}

/// One call at a time works in a folder; the lock ends with the process.
class FolderLock {
 public:
  static absl::StatusOr<std::unique_ptr<FolderLock>> Take(const fs::path& folder) {
    const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
      return absl::InternalError(
          fmt::format("cannot open {}: {}", folder.string(), std::generic_category().message(errno)));
    }
    auto lock = std::unique_ptr<FolderLock>(new FolderLock(fd));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return lock;
    return absl::FailedPreconditionError(fmt::format(
        "another `normlab data prepare` works in {}; wait for it or choose another --out", folder.string()));
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock() { close(fd_); }

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  const int fd_;
};

absl::StatusOr<Tokenizer> LoadTokenizer(const fs::path& path) {
  NORMLAB_ASSIGN_OR_RETURN(std::string model, ReadWholeFile(path));
  auto tokenizer = Tokenizer::FromModel(std::move(model));
  if (tokenizer.ok()) return tokenizer;
  return absl::InvalidArgumentError(fmt::format("{}: {}", path.string(), std::string(tokenizer.status().message())));
}

absl::StatusOr<Tokenizer> MakeTokenizer(const PrepareOptions& options, const Corpus& corpus) {
  if (!options.tokenizer.empty()) return LoadTokenizer(options.tokenizer);
  ProgressLine progress("training the tokenizer", options.is_silent);
  const uint64_t sample_bytes =
      std::clamp(kSampleBytesPerPiece * static_cast<uint64_t>(options.vocab_size), kSampleBytesMin, kSampleBytesMax);
  const auto is_training = [&](DocumentPosition position) { return !IsValidation(corpus, options, position); };
  NORMLAB_ASSIGN_OR_RETURN(const auto sentences, SampleSentences(corpus, options.text_key, is_training, sample_bytes));
  progress.Update(0, fmt::format("{} pieces from {} lines", options.vocab_size, sentences.size()));
  NORMLAB_ASSIGN_OR_RETURN(std::string model, TrainTokenizer(sentences, options.vocab_size));
  progress.Finish();
  return Tokenizer::FromModel(std::move(model));
}

/// Encodes and writes all documents that `state` does not have, and keeps it on disk as shards are finished.
absl::Status WriteSplits(const PrepareOptions& options, const Corpus& corpus, const Tokenizer& tokenizer,
                         const std::atomic<bool>& stop, PrepareState* state) {
  const ShardLayout layout{.folder = options.out,
                           .token_bytes = TokenBytesFor(tokenizer.vocab_size()),
                           .has_mask = options.is_sft,
                           .shard_tokens = static_cast<uint64_t>(options.shard_tokens)};
  SplitWriter train(layout, "train", state->train), validation(layout, "validation", state->validation);
  const auto split_of = [&](DocumentPosition position) -> SplitWriter& {
    return IsValidation(corpus, options, position) ? validation : train;
  };
  const auto keep_state = [&] {
    state->train = train.state();
    state->validation = validation.state();
    WriteState(options.out, *state);
  };
  const DocumentPosition first = std::min(state->train.next, state->validation.next);
  // Fixed at the start: the reader asks on its own thread, while the writers go on.
  const SplitState train_start = state->train, validation_start = state->validation;
  CorpusReader reader(corpus, first.file, corpus.files.size());
  EncodeProgress progress(corpus.bytes, options.is_silent);
  const EncodeWork work{
      .read = [&](RawDocument* document) -> absl::StatusOr<bool> {
        while (!stop) {
          NORMLAB_ASSIGN_OR_RETURN(const bool has_more, reader.Next(document));
          if (!has_more) return false;
          const bool is_validation = IsValidation(corpus, options, document->position);
          if (document->position >= (is_validation ? validation_start : train_start).next) return true;
        }
        return absl::CancelledError("");
      },
      .encode = [&](RawDocument document) { return EncodeDocument(corpus, options, tokenizer, std::move(document)); },
      .consume = [&](const EncodedDocument& document) -> absl::Status {
        if (stop) return absl::CancelledError("");
        if (split_of(document.position).Add(document)) keep_state();
        progress.Update(document.corpus_position, train.counts(), validation.counts());
        return absl::OkStatus();
      }};
  const int num_threads =
      options.threads > 0 ? options.threads : std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 64);
  const absl::Status status = EncodeInOrder(work, {.num_threads = num_threads});
  if (absl::IsCancelled(status)) {
    return absl::CancelledError(
        fmt::format("interrupted; {} finished shard(s) are kept, the same command goes on behind them",
                    train.state().counts.shards.size() + validation.state().counts.shards.size()));
  }
  NORMLAB_RETURN_IF_ERROR(status);
  train.Finish({.file = corpus.files.size()});
  validation.Finish({.file = corpus.files.size()});
  progress.Finish(train.counts(), validation.counts());
  keep_state();
  return absl::OkStatus();
}

absl::Status CheckCorpus(const PrepareOptions& options, const Corpus& corpus) {
  for (const CorpusFile& file : corpus.files) {
    if (options.is_sft && file.format == CorpusFormat::kText) {
      return absl::InvalidArgumentError(fmt::format(
          "{} is a text file by its name; prompts and responses are read from .jsonl, .ndjson and .json files",
          file.path.string()));
    }
  }
  if (options.is_sft && options.tokenizer.empty()) {
    return absl::InvalidArgumentError(
        "prompts and responses need the tokenizer of the model that is to be tuned: give --tokenizer FILE");
  }
  const CorpusFile& first = corpus.files.front();
  if (options.validation.empty() && corpus.files.size() == 1 && first.format == CorpusFormat::kText) {
    return absl::InvalidArgumentError(fmt::format(
        "{} is the only file; each text file is one document, and one is held out for validation: split the text into "
        "at least 2 files, or give --validation",
        first.path.string()));
  }
  return absl::OkStatus();
}

/// What decides the result. Not whether invalid documents are skipped: where that matters there is no other result.
absl::StatusOr<nlohmann::json> DescribeSource(const PrepareOptions& options, const Corpus& corpus,
                                              const std::atomic<bool>& stop) {
  ProgressLine progress("reading the input", options.is_silent);
  const auto on_bytes = [&](uint64_t bytes) {
    progress.Update(static_cast<double>(bytes) / static_cast<double>(std::max<uint64_t>(1, corpus.bytes)),
                    BytesText(static_cast<int64_t>(bytes)));
  };
  NORMLAB_ASSIGN_OR_RETURN(const std::string digest, DigestCorpus(corpus, stop, on_bytes));
  progress.Finish();
  nlohmann::json source = {{"recipe", kRecipe},
                           {"inputs_sha256", digest},
                           {"files", corpus.files.size()},
                           {"bytes", corpus.bytes},
                           {"shard_tokens", options.shard_tokens}};
  if (options.validation.empty()) source["validation_every"] = options.validation_every;
  if (options.is_sft) {
    source["prompt_key"] = options.prompt_key;
    source["response_key"] = options.response_key;
  } else {
    source["text_key"] = options.text_key;
  }
  if (options.tokenizer.empty()) {
    source["vocab_size"] = options.vocab_size;
  } else {
    NORMLAB_ASSIGN_OR_RETURN(const std::string model, ReadWholeFile(options.tokenizer));
    source["tokenizer_sha256"] = Sha256Hex(model);
  }
  return source;
}

/// The dataset in `out` if it was made of just this source; nothing if `out` holds no dataset.
absl::StatusOr<std::optional<Manifest>> FindFinished(const fs::path& out, const nlohmann::json& source) {
  const auto text = ReadWholeFile(out / kManifestFile);
  if (!text.ok()) return std::nullopt;
  const nlohmann::json document = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  const bool is_old = document.is_object() && document.value("format", "") != kManifestFormat;
  if (is_old || ReadManifest(out).source != source) {
    return absl::FailedPreconditionError(
        fmt::format("{} holds a dataset of {}; runs may depend on it, so it is left alone: choose another --out, or "
                    "remove the folder",
                    out.string(), is_old ? "another version of normlab" : "other text or options"));
  }
  return ReadManifest(out);
}

/// The tokenizer and state of an interrupted call, or those of a new one, on disk.
absl::StatusOr<Tokenizer> Begin(const PrepareOptions& options, const Corpus& corpus, PrepareState* state) {
  if (auto found = FindState(options.out, state->source)) {
    *state = *std::move(found);
    return LoadTokenizer(options.out / kTokenizerFile);
  }
  RemoveLeftovers(options.out);
  auto tokenizer = MakeTokenizer(options, corpus);
  if (!tokenizer.ok()) return tokenizer;
  WriteFileDurably(options.out / kTokenizerFile, tokenizer->model());
  state->tokenizer_sha256 = Sha256Hex(tokenizer->model());
  WriteState(options.out, *state);
  return tokenizer;
}

absl::StatusOr<PrepareResult> PrepareOrThrow(const PrepareOptions& options, const std::atomic<bool>& stop) {
  NORMLAB_ASSIGN_OR_RETURN(const Corpus corpus, FindCorpus(options.inputs, options.validation));
  NORMLAB_RETURN_IF_ERROR(CheckCorpus(options, corpus));
  PrepareResult result{.skipped_files = corpus.skipped};
  PrepareState state;
  NORMLAB_ASSIGN_OR_RETURN(state.source, DescribeSource(options, corpus, stop));
  std::error_code error;
  fs::create_directories(options.out, error);
  if (error) {
    return absl::InternalError(fmt::format("cannot make {}: {}", options.out.string(), error.message()));
  }
  NORMLAB_ASSIGN_OR_RETURN(const auto lock, FolderLock::Take(options.out));
  NORMLAB_ASSIGN_OR_RETURN(const auto finished, FindFinished(options.out, state.source));
  if (finished) {
    result.manifest = *finished;
    result.was_there = true;
    return result;
  }
  NORMLAB_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Begin(options, corpus, &state));
  result.resumed_shards =
      static_cast<int64_t>(state.train.counts.shards.size() + state.validation.counts.shards.size());
  NORMLAB_RETURN_IF_ERROR(WriteSplits(options, corpus, tokenizer, stop, &state));
  if (state.train.counts.documents == 0 || state.validation.counts.documents == 0) {
    return absl::InvalidArgumentError(
        fmt::format("{} file(s) give {} documents for training and {} for validation, both need one; add text, lower "
                    "--validation-every, or give --validation",
                    corpus.files.size(), state.train.counts.documents, state.validation.counts.documents));
  }
  result.manifest = {.vocab_size = tokenizer.vocab_size(),
                     .eos_id = tokenizer.eos_id(),
                     .tokenizer_file = kTokenizerFile,
                     .tokenizer_sha256 = state.tokenizer_sha256,
                     .source = state.source,
                     .train = state.train.counts,
                     .validation = state.validation.counts};
  WriteManifest(options.out, result.manifest);
  fs::remove(options.out / kStateFile);
  return result;
}

}  // namespace

absl::StatusOr<PrepareResult> Prepare(const PrepareOptions& options, const std::atomic<bool>& stop) {
  // The shard and manifest code is shared with the trainer and throws; it stops here.
  try {
    return PrepareOrThrow(options, stop);
  } catch (const FileError& error) {
    return absl::InternalError(
        error.is_disk_full()
            ? fmt::format("{}; free some space and run it again: finished shards are kept", error.what())
            : error.what());
  } catch (const std::exception& error) {
    return absl::DataLossError(error.what());
  }
}

}  // namespace normlab::cli
