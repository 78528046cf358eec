#include "worker/trainer/data/batch_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "worker/trainer/data/ignored_target.h"
#include "worker/trainer/train/file_digest.h"

namespace normlab::trainer {
namespace {

/// Reads the manifest, and makes sure that the tokenizer beside it is the one that it names.
Manifest ReadCheckedManifest(const std::filesystem::path& folder) {
  try {
    Manifest manifest = ReadManifest(folder);
    const std::filesystem::path tokenizer = folder / manifest.tokenizer_file;
    if (const FileDigest digest = DigestFile(tokenizer); digest.sha256 != manifest.tokenizer_sha256) {
      throw DatasetError(
          fmt::format("{} ({} bytes) has SHA-256 {}, the manifest says {}: it is not the tokenizer that "
                      "made this dataset",
                      tokenizer.string(), digest.bytes, digest.sha256, manifest.tokenizer_sha256));
    }
    return manifest;
  } catch (const DatasetError& error) {
    throw PermanentError(error.what());
  } catch (const FileError& error) {
    throw PermanentError(error.what());
  }
}

RowReader OpenRows(const TrainerSpec& spec, const Manifest& manifest, const char* name, const ManifestSplit& counts) {
  const DataSpec& data = spec.run.data;
  try {
    RowReader rows(TokenSplit(spec.data_dir, name, counts, manifest.vocab_size), data.form, data.seq_len,
                   manifest.vocab_size, manifest.eos_id);
    if (rows.NumRows() > 0) return rows;
    throw DatasetError(data.form == DataForm::kDocuments
                           ? fmt::format("{}: the {} split has no document", spec.data_dir, name)
                           : fmt::format("{}: the {} split has {} tokens, one sequence of data.seq_len {} needs {}",
                                         spec.data_dir, name, rows.split().num_tokens(), data.seq_len,
                                         data.seq_len + 1));
  } catch (const DatasetError& error) {
    throw PermanentError(error.what());
  }
}

}  // namespace

RowReader::RowReader(TokenSplit split, DataForm form, int64_t seq_len, int64_t vocab_size, int64_t eos_id)
    : split_(std::move(split)),
      form_(form),
      seq_len_(seq_len),
      vocab_size_(vocab_size),
      eos_id_(eos_id),
      tokens_(static_cast<size_t>(seq_len) + 1),
      is_target_(static_cast<size_t>(seq_len) + 1) {}

int64_t RowReader::NumRows() const {
  if (form_ == DataForm::kDocuments) return split_.num_documents();
  return split_.num_tokens() == 0 ? 0 : (split_.num_tokens() - 1) / seq_len_;
}

int64_t RowReader::Read(int64_t row, std::span<int64_t> inputs, std::span<int64_t> targets) {
  const std::span<int64_t> tokens(tokens_);
  const std::span<uint8_t> is_target(is_target_);
  if (form_ == DataForm::kPacked) {
    ReadTokens(row, row * seq_len_, tokens, is_target);
  } else {
    const IndexRange document = split_.Document(row);
    const auto count = static_cast<size_t>(std::min(document.end - document.begin, seq_len_));
    // Padding is never attended to by what stands before it, and is no target: which token it is does not matter.
    std::fill(tokens.begin(), tokens.end(), eos_id_);
    std::fill(is_target.begin(), is_target.end(), uint8_t{0});
    ReadTokens(row, document.begin, tokens.first(count), is_target.first(count));
    if (document.end - document.begin > seq_len_) tokens[count - 1] = eos_id_;
  }
  int64_t num_targets = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    inputs[i] = tokens[i];
    targets[i] = is_target[i + 1] ? tokens[i + 1] : kIgnoredTarget;
    num_targets += is_target[i + 1];
  }
  return num_targets;
}

void RowReader::ReadTokens(int64_t row, int64_t first, std::span<int64_t> tokens, std::span<uint8_t> is_target) {
  split_.Read(first, tokens, is_target);
  // A header can say a smaller largest token than there is; no embedding may be read beyond its end.
  if (const auto largest = std::max_element(tokens.begin(), tokens.end());
      largest != tokens.end() && *largest >= vocab_size_) {
    throw DatasetError(fmt::format("the {} split has token {} in sequence {}, the manifest's vocab_size is {}",
                                   split_.name(), *largest, row, vocab_size_));
  }
}

BatchReader::BatchReader(const TrainerSpec& spec, const std::function<bool()>& is_time_over)
    : manifest_(ReadCheckedManifest(spec.data_dir)),
      seq_len_(spec.run.data.seq_len),
      train_(OpenRows(spec, manifest_, "train", manifest_.train)),
      validation_(OpenRows(spec, manifest_, "validation", manifest_.validation)),
      sampler_(spec.run.seed, train_.NumRows(), spec.run.train.batch_size) {
  try {
    validation_.split().Verify(is_time_over);
    train_.split().Verify(is_time_over);
  } catch (const DatasetError& error) {
    throw PermanentError(error.what());
  }
}

int64_t BatchReader::ReadTrain(int64_t step, int64_t first, int64_t count, int64_t* inputs, int64_t* targets) {
  const auto seq_len = static_cast<size_t>(seq_len_);
  int64_t num_targets = 0;
  for (int64_t i = 0; i < count; ++i) {
    num_targets +=
        train_.Read(sampler_.Row(step, first + i), {inputs + i * seq_len_, seq_len}, {targets + i * seq_len_, seq_len});
  }
  return num_targets;
}

int64_t BatchReader::ReadValidation(int64_t first, int64_t count, int64_t* inputs, int64_t* targets) {
  const auto seq_len = static_cast<size_t>(seq_len_);
  int64_t num_targets = 0;
  for (int64_t i = 0; i < count; ++i) {
    num_targets += validation_.Read(first + i, {inputs + i * seq_len_, seq_len}, {targets + i * seq_len_, seq_len});
  }
  return num_targets;
}

std::function<bool()> TimeLimit(double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  return [end] { return std::chrono::steady_clock::now() >= end; };
}

}  // namespace normlab::trainer
