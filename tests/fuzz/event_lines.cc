// The agent's reader of a trainer's output: any bytes, in any pieces, become events that can be sent.
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/check.h"
#include "worker/agent/events.h"

namespace {

constexpr size_t kLineBytesMax = 4096;

std::vector<std::string> Lines(std::string_view bytes, size_t piece) {
  std::vector<std::string> lines;
  normlab::agent::LineSplitter splitter(kLineBytesMax);
  const auto keep = [&lines](std::string_view line, bool is_cut) {
    Check(line.size() <= kLineBytesMax, "a line is bounded");
    lines.push_back(std::string(line) + (is_cut ? "+" : ""));
  };
  for (size_t i = 0; i < bytes.size(); i += piece) splitter.Add(bytes.substr(i, piece), keep);
  splitter.Finish(keep);
  return lines;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  Check(Lines(bytes, 7) == Lines(bytes, 65536), "the pieces in which bytes arrive do not matter");
  normlab::agent::LineSplitter splitter(kLineBytesMax);
  const auto parse = [](std::string_view line, bool is_cut) {
    const auto parsed = normlab::agent::ParseEventLine(line, is_cut);
    Check(parsed.event.event_case() != normlab::v1::TrainerEvent::EVENT_NOT_SET, "every line is an event");
    normlab::v1::TrainerEvent sent;
    Check(sent.ParseFromString(parsed.event.SerializeAsString()), "an event that was sent can be read");
  };
  splitter.Add(bytes, parse);
  splitter.Finish(parse);
  return 0;
}
