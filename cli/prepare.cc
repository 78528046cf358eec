#include "cli/prepare.h"

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <thread>

#include "cli/corpus.h"
#include "cli/progress_line.h"
#include "cli/tokenizer.h"
#include "cli/units.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kTokenizerFile[] = "tokenizer.model";
// Says what the dataset was made of. Beside the manifest, because only `prepare` reads it.
constexpr char kSourceFile[] = "source.json";
// A change of what `prepare` makes of the same input needs another number here.
constexpr int kRecipe = 1;
constexpr uint64_t kSampleBytes = 4 << 20;
constexpr uint64_t kShardTokensMax = 64 << 20;
// Files that are read and encoded before they are written; bounds memory, keeps all threads busy.
constexpr size_t kBatchFiles = 64;

/// Writes one split as shards of bounded size.
class SplitWriter {
 public:
  SplitWriter(fs::path folder, std::string name, uint32_t token_bytes)
      : folder_(std::move(folder)), name_(std::move(name)), token_bytes_(token_bytes) {}

  void AddDocument(const std::vector<uint32_t>& tokens) {
    if (!writer_) {
      file_ = fmt::format("{}-{:05}.tokens", name_, split_.shards.size());
      writer_ = std::make_unique<TokenShardWriter>(folder_ / file_, token_bytes_);
    }
    writer_->Append(tokens);
    ++split_.documents;
    if (writer_->num_tokens() >= kShardTokensMax) FinishShard();
  }

  ManifestSplit Finish() {
    if (writer_) FinishShard();
    return split_;
  }

 private:
  void FinishShard() {
    const auto tokens = static_cast<int64_t>(writer_->num_tokens());
    writer_->Finish();
    writer_.reset();
    split_.shards.push_back({.file = file_, .tokens = tokens});
    split_.tokens += tokens;
  }

  const fs::path folder_;
  const std::string name_;
  const uint32_t token_bytes_;
  ManifestSplit split_;
  std::string file_;
  std::unique_ptr<TokenShardWriter> writer_;
};

struct EncodedFile {
  absl::Status status;
  std::vector<uint32_t> tokens;  // With the end-of-text piece; empty if the file has no text.
  size_t text_bytes = 0;
};

EncodedFile EncodeFile(const CorpusFile& file, const Tokenizer& tokenizer) {
  EncodedFile encoded;
  const auto text = ReadDocument(file);
  if (!text.ok()) return {.status = text.status()};
  encoded.text_bytes = text->size();
  auto tokens = tokenizer.Encode(*text);
  if (!tokens.ok()) {
    return {.status = absl::InternalError(
                fmt::format("cannot encode {}: {}", file.path.string(), std::string(tokens.status().message())))};
  }
  encoded.tokens = *std::move(tokens);
  if (!encoded.tokens.empty()) encoded.tokens.push_back(tokenizer.eos_id());
  return encoded;
}

/// Encodes files [begin, end) on all cores; results in order of file.
std::vector<EncodedFile> EncodeBatch(const std::vector<CorpusFile>& files, size_t begin, size_t end,
                                     const Tokenizer& tokenizer) {
  std::vector<EncodedFile> encoded(end - begin);
  std::atomic<size_t> next = begin;
  const auto work = [&] {
    for (size_t i = next++; i < end; i = next++) encoded[i - begin] = EncodeFile(files[i], tokenizer);
  };
  std::vector<std::thread> threads;
  const size_t num_threads = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 16);
  for (size_t i = 1; i < num_threads; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return encoded;
}

bool IsValidation(size_t index, size_t num_files, int every) {
  const auto stride = static_cast<size_t>(every);
  if (num_files < stride) return index == num_files - 1;
  return index % stride == stride - 1;
}

absl::StatusOr<std::string> ReadModel(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::InvalidArgumentError(fmt::format("cannot read {}: {}", path, std::generic_category().message(errno)));
  }
  return std::string(std::istreambuf_iterator<char>(file), {});
}

absl::StatusOr<Tokenizer> GetTokenizer(const PrepareOptions& options, const Corpus& corpus) {
  if (!options.tokenizer.empty()) {
    NORMLAB_ASSIGN_OR_RETURN(std::string model, ReadModel(options.tokenizer));
    auto tokenizer = Tokenizer::FromModel(std::move(model));
    if (tokenizer.ok()) return tokenizer;
    return absl::InvalidArgumentError(
        fmt::format("{}: {}", options.tokenizer, std::string(tokenizer.status().message())));
  }
  std::vector<CorpusFile> training;
  for (size_t i = 0; i < corpus.files.size(); ++i) {
    if (!IsValidation(i, corpus.files.size(), options.validation_every)) training.push_back(corpus.files[i]);
  }
  ProgressLine progress("training the tokenizer", options.is_silent);
  NORMLAB_ASSIGN_OR_RETURN(const auto sentences, SampleSentences(training, kSampleBytes));
  progress.Update(0, fmt::format("{} pieces from {} lines", options.vocab_size, sentences.size()));
  NORMLAB_ASSIGN_OR_RETURN(std::string model, TrainTokenizer(sentences, options.vocab_size));
  progress.Finish();
  return Tokenizer::FromModel(std::move(model));
}

/// Writes both splits; their counts go into `result`.
absl::Status WriteSplits(const PrepareOptions& options, const Corpus& corpus, const Tokenizer& tokenizer,
                         PrepareResult* result) {
  const uint32_t token_bytes = TokenBytesFor(tokenizer.vocab_size());
  SplitWriter train(options.out, "train", token_bytes), validation(options.out, "validation", token_bytes);
  ProgressLine progress("tokenizing", options.is_silent);
  const size_t num_files = corpus.files.size();
  for (size_t begin = 0; begin < num_files; begin += kBatchFiles) {
    const size_t end = std::min(begin + kBatchFiles, num_files);
    const std::vector<EncodedFile> encoded = EncodeBatch(corpus.files, begin, end, tokenizer);
    for (size_t i = begin; i < end; ++i) {
      NORMLAB_RETURN_IF_ERROR(encoded[i - begin].status);
      const std::vector<uint32_t>& tokens = encoded[i - begin].tokens;
      if (tokens.empty()) continue;
      SplitWriter& split = IsValidation(i, num_files, options.validation_every) ? validation : train;
      split.AddDocument(tokens);
      result->text_bytes += static_cast<int64_t>(encoded[i - begin].text_bytes);
    }
    progress.Update(static_cast<double>(end) / static_cast<double>(num_files),
                    fmt::format("{} of {} files, {}", end, num_files, BytesText(result->text_bytes)));
  }
  progress.Finish();
  result->manifest.train = train.Finish();
  result->manifest.validation = validation.Finish();
  if (result->manifest.train.documents == 0 || result->manifest.validation.documents == 0) {
    return absl::InvalidArgumentError(fmt::format(
        "{} file(s) give {} documents for training and {} for validation, both need one; split the text into "
        "more files or lower --validation-every",
        num_files, result->manifest.train.documents, result->manifest.validation.documents));
  }
  return absl::OkStatus();
}

/// What decides the result.
absl::StatusOr<nlohmann::ordered_json> DescribeSource(const PrepareOptions& options, const Corpus& corpus) {
  NORMLAB_ASSIGN_OR_RETURN(const std::string digest, DigestCorpus(corpus));
  nlohmann::ordered_json source = {{"recipe", kRecipe},
                                   {"inputs_sha256", digest},
                                   {"files", corpus.files.size()},
                                   {"validation_every", options.validation_every}};
  if (options.tokenizer.empty()) {
    source["vocab_size"] = options.vocab_size;
  } else {
    NORMLAB_ASSIGN_OR_RETURN(const std::string model, ReadModel(options.tokenizer));
    source["tokenizer_sha256"] = Sha256Hex(model);
  }
  return source;
}

/// The dataset in `out` if it was made of just this source; nothing if `out` holds no dataset.
absl::StatusOr<std::optional<Manifest>> FindFinished(const fs::path& out, const nlohmann::ordered_json& source) {
  std::error_code error;
  if (!fs::exists(out / kManifestFile, error)) return std::nullopt;
  std::ifstream file(out / kSourceFile);
  const auto found = nlohmann::ordered_json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (found != source) {
    return absl::FailedPreconditionError(
        fmt::format("{} holds a dataset of other text or options; runs may depend on it, so it is left alone: choose "
                    "another --out, or remove the folder",
                    out.string()));
  }
  return ReadManifest(out);
}

absl::StatusOr<PrepareResult> PrepareOrThrow(const PrepareOptions& options) {
  NORMLAB_ASSIGN_OR_RETURN(const Corpus corpus, FindCorpus(options.inputs));
  if (corpus.files.size() < 2) {
    return absl::InvalidArgumentError(fmt::format(
        "{} is the only file; each file is one document, and one is held out for validation: split the text "
        "into at least 2 files",
        corpus.files.front().path.string()));
  }
  PrepareResult result{.skipped_files = corpus.skipped};
  NORMLAB_ASSIGN_OR_RETURN(const nlohmann::ordered_json source, DescribeSource(options, corpus));
  NORMLAB_ASSIGN_OR_RETURN(const auto finished, FindFinished(options.out, source));
  if (finished) {
    result.manifest = *finished;
    result.was_there = true;
    return result;
  }
  std::error_code error;
  fs::create_directories(options.out, error);
  if (error) {
    return absl::InternalError(fmt::format("cannot make {}: {}", options.out.string(), error.message()));
  }
  NORMLAB_ASSIGN_OR_RETURN(const Tokenizer tokenizer, GetTokenizer(options, corpus));
  NORMLAB_RETURN_IF_ERROR(WriteSplits(options, corpus, tokenizer, &result));
  WriteFileDurably(options.out / kTokenizerFile, tokenizer.model());
  WriteFileDurably(options.out / kSourceFile, source.dump(2) + "\n");
  result.manifest.vocab_size = tokenizer.vocab_size();
  result.manifest.eos_id = tokenizer.eos_id();
  result.manifest.tokenizer_file = kTokenizerFile;
  result.manifest.tokenizer_sha256 = Sha256Hex(tokenizer.model());
  WriteManifest(options.out, result.manifest);
  return result;
}

}  // namespace

absl::StatusOr<PrepareResult> Prepare(const PrepareOptions& options) {
  // The shard and manifest code is shared with the trainer and throws; it stops here.
  try {
    return PrepareOrThrow(options);
  } catch (const FileError& error) {
    return absl::InternalError(error.is_disk_full() ? fmt::format("{}; free some space and run it again", error.what())
                                                    : error.what());
  } catch (const std::exception& error) {
    return absl::DataLossError(error.what());
  }
}

}  // namespace normlab::cli
