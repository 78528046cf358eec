#include "cli/corpus_json.h"

#include <nlohmann/json.hpp>

#include "fmt/format.h"

namespace normlab::cli {
namespace {

/// "[json.exception.parse_error.101] parse error at line 1, column 9: syntax error ...; last read: '...'" or
/// "[json.exception.out_of_range.406] number overflow parsing '...'": the words.
std::string WordsOf(const nlohmann::json::exception& error) {
  const std::string text = error.what();
  const size_t colon = text.find(": ");
  std::string words = text.substr(colon == std::string::npos ? text.find("] ") + 2 : colon + 2);
  if (words.size() > 120) words = words.substr(0, 117) + "...";
  return words;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadJsonTexts(std::string_view line, const std::vector<std::string>& keys) {
  nlohmann::json document;
  try {
    document = nlohmann::json::parse(line);
  } catch (const nlohmann::json::parse_error& error) {
    return absl::InvalidArgumentError(fmt::format("is not JSON at byte {}: {}", error.byte, WordsOf(error)));
  } catch (const nlohmann::json::out_of_range& error) {
    return absl::InvalidArgumentError(fmt::format("has a number that cannot be read: {}", WordsOf(error)));
  }
  if (!document.is_object()) {
    return absl::InvalidArgumentError(fmt::format("is JSON, but {} and no object", document.type_name()));
  }
  std::vector<std::string> texts;
  for (const std::string& key : keys) {
    const auto member = document.find(key);
    if (member == document.end()) return absl::InvalidArgumentError(fmt::format("has no key \"{}\"", key));
    if (!member->is_string()) {
      return absl::InvalidArgumentError(fmt::format("has a {} under \"{}\", not text", member->type_name(), key));
    }
    texts.push_back(std::move(member->get_ref<std::string&>()));
    if (const size_t zero = texts.back().find('\0'); zero != std::string::npos) {
      return absl::InvalidArgumentError(fmt::format("has a zero character at byte {} of \"{}\"", zero, key));
    }
  }
  return texts;
}

}  // namespace normlab::cli
