#include "cli/tokenizer.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "absl/strings/str_split.h"
#include "cli/corpus_json.h"
#include "cli/corpus_reader.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

constexpr size_t kChunkBytes = 256 << 10;
// What packing usually makes of prose; only decides how many files are sampled.
constexpr uint64_t kPackedRatio = 4;
constexpr uint64_t kSampledFilesMin = 64;

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

/// The text of a document; nothing if its line of JSON cannot be read, which the encoding of all documents judges.
std::string SampledText(const Corpus& corpus, RawDocument document, const std::string& text_key) {
  if (corpus.files[document.position.file].format == CorpusFormat::kText) return std::move(document.bytes);
  const auto texts = ReadJsonTexts(document.bytes, {text_key});
  return texts.ok() ? texts->front() : "";
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

absl::StatusOr<std::vector<std::string>> SampleSentences(const Corpus& corpus, const std::string& text_key,
                                                         const std::function<bool(DocumentPosition)>& is_training,
                                                         uint64_t bytes_max) {
  std::vector<uint64_t> files;
  uint64_t bytes = 0;
  for (uint64_t i = 0; i < corpus.files.size(); ++i) {
    const CorpusFile& file = corpus.files[i];
    if (file.is_validation || (file.format == CorpusFormat::kText && !is_training({.file = i}))) continue;
    files.push_back(i);
    const std::string suffix = file.path.extension().string();
    bytes += suffix == ".gz" || suffix == ".zst" ? file.bytes * kPackedRatio : file.bytes;
  }
  const uint64_t stride = std::max<uint64_t>(1, (bytes + bytes_max - 1) / bytes_max);
  // Of files that are large beside the sample: the beginning of many, not the whole of few.
  const uint64_t stride_max = std::max<uint64_t>(1, files.size() / kSampledFilesMin);
  const uint64_t chosen = std::min(stride, stride_max);
  const uint64_t file_bytes_max = stride <= stride_max ? bytes_max : bytes_max / ((files.size() + chosen - 1) / chosen);
  std::vector<std::string> sentences;
  uint64_t taken = 0;
  for (size_t i = 0; i < files.size() && taken < bytes_max; i += chosen) {
    CorpusReader reader(corpus, files[i], files[i] + 1);
    RawDocument document;
    for (const uint64_t end = std::min(bytes_max, taken + file_bytes_max); taken < end;) {
      NORMLAB_ASSIGN_OR_RETURN(const bool has_more, reader.Next(&document));
      if (!has_more) break;
      if (!is_training(document.position)) continue;
      const std::string text = SampledText(corpus, std::move(document), text_key);
      for (const auto& line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
        if (taken >= end) break;
        sentences.emplace_back(line);
        taken += line.size();
      }
    }
  }
  return sentences;
}

}  // namespace normlab::cli
