#include "worker/trainer/export/tokenizer_files.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "common/durable_file.h"
#include "worker/trainer/export/sentencepiece_model.h"
#include "worker/trainer/spec.h"
#include "worker/trainer/train/file_digest.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using PieceType = SentencePieceModel::PieceType;

// U+2581, which stands for a space inside of pieces.
constexpr char kSpaceMark[] = "\u2581";

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw FileError(fmt::format("cannot open {}", path.string()), errno);
  return {std::istreambuf_iterator<char>(file), {}};
}

ordered_json Replace(const std::string& from, const std::string& to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

ordered_json Normalizer(const SentencePieceModel& model) {
  ordered_json steps = ordered_json::array();
  if (model.adds_dummy_prefix) steps.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
  steps.push_back(Replace(" ", kSpaceMark));
  return {{"type", "Sequence"}, {"normalizers", std::move(steps)}};
}

ordered_json Decoder(const SentencePieceModel& model) {
  ordered_json steps = {Replace(kSpaceMark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (model.adds_dummy_prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", std::move(steps)}};
}

ordered_json AddedTokens(const SentencePieceModel& model) {
  ordered_json tokens = ordered_json::array();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const SentencePieceModel::Piece& piece = model.pieces[id];
    const bool is_special = piece.type == PieceType::kUnknown || piece.type == PieceType::kControl;
    if (!is_special && piece.type != PieceType::kUserDefined) continue;
    tokens.push_back({{"id", id},
                      {"content", piece.text},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", false},
                      {"special", is_special}});
  }
  return tokens;
}

ordered_json TokenizerJson(const SentencePieceModel& model) {
  ordered_json vocabulary = ordered_json::array();
  bool has_bytes = false;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    vocabulary.push_back({piece.text, piece.score});
    has_bytes = has_bytes || piece.type == PieceType::kByte;
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", AddedTokens(model)},
          {"normalizer", Normalizer(model)},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", Decoder(model)},
          {"model",
           {{"type", "Unigram"},
            {"unk_id", model.FindOnly(PieceType::kUnknown)},
            {"vocab", std::move(vocabulary)},
            {"byte_fallback", has_bytes}}}};
}

/// Why tokenizer.json cannot say what the model does; empty if it can.
std::string Hindrance(const SentencePieceModel& model) {
  if (model.type != SentencePieceModel::Type::kUnigram) return "it is not a unigram model";
  if (model.has_character_map) return "it folds characters";
  if (model.removes_extra_whitespaces) return "it removes extra spaces";
  if (!model.escapes_whitespaces) return "it keeps spaces as they are";
  if (model.FindOnly(PieceType::kUnknown) < 0) return "it has no unknown piece";
  return "";
}

ordered_json TokenizerConfig(const SentencePieceModel& model, const Manifest& manifest, int64_t seq_len,
                             bool is_llama) {
  const auto text_of = [&](int id) -> ordered_json {
    return id < 0 ? ordered_json() : ordered_json(model.pieces[static_cast<size_t>(id)].text);
  };
  ordered_json config = {{"tokenizer_class", is_llama ? "LlamaTokenizer" : "PreTrainedTokenizerFast"},
                         {"unk_token", text_of(model.FindOnly(PieceType::kUnknown))},
                         {"eos_token", text_of(static_cast<int>(manifest.eos_id))},
                         {"clean_up_tokenization_spaces", false},
                         {"model_max_length", seq_len}};
  if (is_llama) {
    config["add_bos_token"] = false;
    config["add_eos_token"] = false;
    config["add_prefix_space"] = model.adds_dummy_prefix;
  }
  return config;
}

}  // namespace

std::string WriteTokenizerFiles(const fs::path& data, const Manifest& manifest, int64_t seq_len,
                                const fs::path& folder) {
  const fs::path source = data / manifest.tokenizer_file;
  const std::string bytes = ReadAll(source);
  if (const std::string sha256 = Sha256Of(bytes); sha256 != manifest.tokenizer_sha256) {
    throw PermanentError(fmt::format("{} is not the tokenizer of this dataset: its SHA-256 is {}, the manifest says {}",
                                     source.string(), sha256, manifest.tokenizer_sha256));
  }
  const SentencePieceModel model = ReadSentencePieceModel(source);
  if (static_cast<int64_t>(model.pieces.size()) != manifest.vocab_size) {
    throw PermanentError(fmt::format("{} has {} pieces, the manifest's vocab_size is {}", source.string(),
                                     model.pieces.size(), manifest.vocab_size));
  }
  WriteFileDurably(folder / "tokenizer.model", bytes);
  const std::string hindrance = Hindrance(model);
  const ordered_json config = TokenizerConfig(model, manifest, seq_len, /*is_llama=*/!hindrance.empty());
  WriteFileDurably(folder / "tokenizer_config.json", config.dump(2) + "\n");
  if (hindrance.empty()) {
    WriteFileDurably(folder / "tokenizer.json", TokenizerJson(model).dump(1) + "\n");
    return "";
  }
  return fmt::format(
      "the tokenizer is exported as tokenizer.model only, because {}: transformers converts it when it is loaded",
      hindrance);
}

}  // namespace normlab::trainer
