#include "cli/tokenizer.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "absl/strings/str_split.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

constexpr size_t kChunkBytes = 256 << 10;
// What gzip usually makes of prose; only decides how many files are sampled.
constexpr uint64_t kGzipRatio = 4;

/// Share of the text's characters that get a piece of their own: the most frequent ones, at most an eighth of the
/// vocabulary. The others are spelled in bytes. A fixed share such as 0.9995 would, for English with some Chinese in
/// it, spend most of a small vocabulary on single characters.
double CharacterCoverage(const std::vector<std::string>& sentences, int vocab_size) {
  std::unordered_map<std::string_view, int64_t> counts;
  int64_t total = 0;
  for (const std::string& sentence : sentences) {
    for (size_t begin = 0; begin < sentence.size();) {
      size_t end = begin + 1;
      while (end < sentence.size() && (static_cast<unsigned char>(sentence[end]) & 0xc0) == 0x80) ++end;
      ++counts[std::string_view(sentence).substr(begin, end - begin)];
      ++total;
      begin = end;
    }
  }
  std::vector<int64_t> sorted;
  for (const auto& [character, count] : counts) sorted.push_back(count);
  std::sort(sorted.rbegin(), sorted.rend());
  sorted.resize(std::min<size_t>(sorted.size(), std::max(64, vocab_size / 8)));
  int64_t covered = 0;
  for (const int64_t count : sorted) covered += count;
  return total == 0 ? 1.0 : std::clamp(static_cast<double>(covered) / static_cast<double>(total), 0.5, 0.9995);
}

}  // namespace

Tokenizer::Tokenizer(std::string model, SentencePiece pieces) : model_(std::move(model)), pieces_(std::move(pieces)) {}

absl::StatusOr<Tokenizer> Tokenizer::FromModel(std::string model) {
  SentencePiece pieces;
  if (const std::string problem = pieces.Load(model); !problem.empty()) {
    return absl::InvalidArgumentError(fmt::format("not a SentencePiece model: {}", problem));
  }
  if (pieces.eos_id() < 0) {
    return absl::InvalidArgumentError(
        "the SentencePiece model has no end-of-text piece (eos_id is -1), which is needed between documents");
  }
  return Tokenizer(std::move(model), std::move(pieces));
}

absl::StatusOr<std::vector<uint32_t>> Tokenizer::Encode(std::string_view text) const {
  std::vector<uint32_t> ids;
  std::vector<int> piece_ids;
  while (!text.empty()) {
    size_t size = text.size();
    if (size > kChunkBytes) {
      const size_t line_end = text.find('\n', kChunkBytes);
      size = line_end == std::string_view::npos ? size : line_end + 1;
    }
    const std::string problem = pieces_.Encode(text.substr(0, size), &piece_ids);
    if (!problem.empty()) return absl::InternalError(problem);
    ids.insert(ids.end(), piece_ids.begin(), piece_ids.end());
    text.remove_prefix(size);
  }
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(const std::vector<uint32_t>& ids) const {
  std::string text;
  const std::string problem = pieces_.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  if (!problem.empty()) return absl::InternalError(problem);
  return text;
}

absl::StatusOr<std::string> TrainTokenizer(const std::vector<std::string>& sentences, int vocab_size) {
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "unigram"},
      {"vocab_size", fmt::format("{}", vocab_size)},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      // Nothing is folded or dropped: what is decoded is what was read, indentation and line ends too.
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"character_coverage", fmt::format("{:.6f}", CharacterCoverage(sentences, vocab_size))},
      {"seed_sentencepiece_size", "200000"},
      {"max_sentence_length", "16384"},
      // Sums are split by thread, so their number is part of the result: fixed, not the machine's.
      {"num_threads", "2"},
      {"shuffle_input_sentence", "false"},
      {"minloglevel", "2"},
  };
  std::string model;
  const std::string problem = SentencePiece::Train(options, sentences, &model);
  if (problem.empty()) return model;
  return absl::InvalidArgumentError(fmt::format(
      "cannot train a tokenizer of {} pieces on {} lines: {}; lower --vocab-size, add text, or give --tokenizer FILE",
      vocab_size, sentences.size(), problem));
}

absl::StatusOr<std::vector<std::string>> SampleSentences(const std::vector<CorpusFile>& files, uint64_t bytes_max) {
  uint64_t bytes = 0;
  for (const CorpusFile& file : files) bytes += file.is_gzip() ? file.bytes * kGzipRatio : file.bytes;
  const size_t stride = static_cast<size_t>(std::max<uint64_t>(1, (bytes + bytes_max - 1) / bytes_max));
  std::vector<std::string> sentences;
  uint64_t taken = 0;
  for (size_t i = 0; i < files.size() && taken < bytes_max; i += stride) {
    NORMLAB_ASSIGN_OR_RETURN(const std::string text, ReadDocument(files[i]));
    for (const auto& line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
      if (taken >= bytes_max) break;
      sentences.emplace_back(line);
      taken += line.size();
    }
  }
  return sentences;
}

}  // namespace normlab::cli
