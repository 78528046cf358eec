// A line of a JSON Lines file, as it comes from elsewhere. Its first byte chooses the keys.
#include <string>
#include <vector>

#include "cli/corpus_json.h"
#include "tests/fuzz/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::vector<std::string> keys =
      data[0] % 2 == 0 ? std::vector<std::string>{"text"} : std::vector<std::string>{"prompt", "response"};
  const std::string_view line(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto texts = normlab::cli::ReadJsonTexts(line, keys);
  if (!texts.ok()) {
    Check(absl::IsInvalidArgument(texts.status()), "what is wrong with a line is INVALID_ARGUMENT");
    Check(!texts.status().message().empty(), "an error says what");
    return 0;
  }
  Check(texts->size() == keys.size(), "each key has its text");
  for (const std::string& text : *texts) {
    Check(text.find('\0') == std::string::npos, "no text has a zero character");
    Check(text.size() <= 3 * line.size(), "a text is no longer than its line, escapes aside");
  }
  return 0;
}
