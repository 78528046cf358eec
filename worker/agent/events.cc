#include "worker/agent/events.h"

#include <algorithm>
#include <utility>

#include "fmt/format.h"
#include "google/protobuf/util/json_util.h"

namespace normlab::agent {
namespace {

constexpr size_t kQuotedBytesMax = 200;

/// Length of the valid UTF-8 sequence at the start of `bytes`, which is not empty; 0 if there is none.
size_t Utf8SequenceLength(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || bytes.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates and what lies above U+10FFFF show in the second byte.
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) || (first == 0xf0 && byte(1) < 0x90) ||
      (first == 0xf4 && byte(1) > 0x8f)) {
    return 0;
  }
  return length;
}

std::string Message(const google::protobuf::util::Status& status) {
  return std::string(status.message().data(), status.message().size());
}

std::string Quoted(const std::string& line) { return ValidUtf8(line, kQuotedBytesMax); }

}  // namespace

void LineSplitter::Add(std::string_view bytes, const LineFunction& on_line) {
  while (true) {
    const size_t newline = bytes.find('\n');
    Append(bytes.substr(0, newline));
    if (newline == std::string_view::npos) return;
    Emit(on_line);
    bytes.remove_prefix(newline + 1);
  }
}

void LineSplitter::Finish(const LineFunction& on_line) {
  if (!line_.empty()) Emit(on_line);
}

void LineSplitter::Append(std::string_view part) {
  const size_t room = line_bytes_max_ - line_.size();
  is_cut_ |= part.size() > room;
  line_.append(part.substr(0, room));
}

void LineSplitter::Emit(const LineFunction& on_line) {
  on_line(line_, std::exchange(is_cut_, false));
  line_.clear();
}

std::string ValidUtf8(std::string_view bytes, size_t bytes_max) {
  bytes = bytes.substr(0, bytes_max);
  std::string valid;
  valid.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t length = Utf8SequenceLength(bytes);
    valid.append(length == 0 ? "\xef\xbf\xbd" : bytes.substr(0, length));
    bytes.remove_prefix(std::max<size_t>(length, 1));
  }
  return valid;
}

v1::TrainerEvent LogEvent(v1::LogLine::Severity severity, std::string_view text) {
  v1::TrainerEvent event;
  event.mutable_log()->set_severity(severity);
  event.mutable_log()->set_text(ValidUtf8(text, kLogLineBytesMax));
  return event;
}

ParsedLine ParseEventLine(std::string_view line, bool is_cut) {
  namespace util = google::protobuf::util;
  const size_t start = line.find_first_not_of(" \t\r");
  if (start == std::string_view::npos || line[start] != '{') return {.event = LogEvent(v1::LogLine::INFO, line)};
  const std::string text = ValidUtf8(line, kEventLineBytesMax);
  if (is_cut) {
    return {.event = LogEvent(v1::LogLine::WARNING,
                              fmt::format("an event was dropped: its line is longer than {} bytes; it starts with {}",
                                          kEventLineBytesMax, Quoted(text)))};
  }
  ParsedLine parsed;
  util::Status status = util::JsonStringToMessage(text, &parsed.event);
  if (!status.ok()) {
    // The strict reading has named the field; the lenient one tells whether that was all.
    util::JsonParseOptions lenient;
    lenient.ignore_unknown_fields = true;
    parsed.event.Clear();
    if (util::JsonStringToMessage(text, &parsed.event, lenient).ok() &&
        parsed.event.event_case() != v1::TrainerEvent::EVENT_NOT_SET) {
      parsed.warning = fmt::format("a field of an event is not known here and was ignored: {}", Message(status));
    } else {
      parsed.event = LogEvent(
          v1::LogLine::WARNING,
          fmt::format("a line is no event of a trainer: {}; it starts with {}", Message(status), Quoted(text)));
    }
  } else if (parsed.event.event_case() == v1::TrainerEvent::EVENT_NOT_SET) {
    parsed.event = LogEvent(v1::LogLine::WARNING, fmt::format("a line is an empty event: {}", Quoted(text)));
  } else if (parsed.event.has_log() && parsed.event.log().text().size() > kLogLineBytesMax) {
    parsed.event = LogEvent(parsed.event.log().severity(), parsed.event.log().text());
  }
  return parsed;
}

}  // namespace normlab::agent
