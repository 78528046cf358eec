#include "cli/prepare_document.h"

#include <algorithm>

#include "cli/corpus_json.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

/// The texts that make a document: one, or prompt and response. INVALID_ARGUMENT saying what is wrong with it.
absl::StatusOr<std::vector<std::string>> ReadTexts(const CorpusFile& file, const PrepareOptions& options,
                                                   std::string bytes) {
  if (file.format == CorpusFormat::kJsonLines) {
    return ReadJsonTexts(
        bytes, options.is_sft ? std::vector{options.prompt_key, options.response_key} : std::vector{options.text_key});
  }
  if (const size_t zero = bytes.find('\0'); zero != std::string::npos) {
    return absl::InvalidArgumentError(fmt::format("is no text: byte {} is 0", zero));
  }
  return std::vector{std::move(bytes)};
}

absl::Status EncodeTexts(const Tokenizer& tokenizer, const std::vector<std::string>& texts, EncodedDocument* encoded) {
  for (const std::string& text : texts) {
    NORMLAB_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, tokenizer.Encode(text));
    encoded->num_given = encoded->tokens.size();
    encoded->tokens.insert(encoded->tokens.end(), tokens.begin(), tokens.end());
    encoded->text_bytes += text.size();
  }
  if (encoded->tokens.size() == encoded->num_given) {
    encoded->kind = EncodedDocument::Kind::kEmpty;
    encoded->tokens.clear();
    return absl::OkStatus();
  }
  encoded->tokens.push_back(tokenizer.eos_id());
  return absl::OkStatus();
}

}  // namespace

bool IsValidation(const Corpus& corpus, const PrepareOptions& options, DocumentPosition position) {
  if (!options.validation.empty()) return corpus.files[position.file].is_validation;
  const auto every = static_cast<uint64_t>(options.validation_every);
  const auto is_text = [](const CorpusFile& file) { return file.format == CorpusFormat::kText; };
  if (corpus.files.size() < every && std::all_of(corpus.files.begin(), corpus.files.end(), is_text)) {
    return position.file == corpus.files.size() - 1;
  }
  return (position.file + position.line) % every == every - 1;
}

EncodedDocument EncodeDocument(const Corpus& corpus, const PrepareOptions& options, const Tokenizer& tokenizer,
                               RawDocument document) {
  EncodedDocument encoded{.position = document.position, .corpus_position = document.corpus_position};
  const auto texts = ReadTexts(corpus.files[document.position.file], options, std::move(document.bytes));
  if (texts.ok()) {
    const absl::Status status = EncodeTexts(tokenizer, *texts, &encoded);
    if (!status.ok()) {
      encoded.status = absl::InternalError(
          fmt::format("cannot encode {}: {}", PlaceOf(corpus, document.position), std::string(status.message())));
    }
  } else if (options.skips_invalid) {
    encoded.kind = EncodedDocument::Kind::kInvalid;
  } else {
    encoded.status = absl::DataLossError(
        fmt::format("{} {}; remove it from the corpus, or leave out what cannot be read with --skip-invalid",
                    PlaceOf(corpus, document.position), std::string(texts.status().message())));
  }
  return encoded;
}

}  // namespace normlab::cli
