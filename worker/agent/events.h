// From a trainer's bytes to its events: JSON lines in the proto JSON mapping of TrainerEvent. No function keeps state.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "normlab/v1/trainer_event.pb.h"

namespace normlab::agent {

/// Longest line of events in bytes; a layer report of 1024 layers has about 200 KB.
inline constexpr size_t kEventLineBytesMax = 1 << 20;
/// Longest line of stderr, and longest text of a log event, in bytes.
inline constexpr size_t kLogLineBytesMax = 8 << 10;

/// Cuts a stream of bytes into lines. Memory is bounded: of a line longer than `line_bytes_max` the first bytes are
/// kept and the rest is thrown away.
class LineSplitter {
 public:
  /// A line without its newline; `is_cut`: it was longer.
  using LineFunction = std::function<void(std::string_view line, bool is_cut)>;

  explicit LineSplitter(size_t line_bytes_max) : line_bytes_max_(line_bytes_max) {}

  /// Calls `on_line` for each line that `bytes` complete.
  void Add(std::string_view bytes, const LineFunction& on_line);
  /// The stream ended: hands over a last line without newline, if there is one.
  void Finish(const LineFunction& on_line);

 private:
  void Append(std::string_view part);
  void Emit(const LineFunction& on_line);

  size_t line_bytes_max_;
  std::string line_;
  bool is_cut_ = false;
};

/// What a line of stdout means. A line that is not JSON is a log event with that text (some library printed it). JSON
/// that is no event becomes a warning that says why and quotes its beginning. An event with a field this version does
/// not know is used without it, and `warning` names the field (a newer trainer may say more).
struct ParsedLine {
  v1::TrainerEvent event;
  std::string warning;  // Empty if there is nothing to say.
};
ParsedLine ParseEventLine(std::string_view line, bool is_cut);

/// A log event; `text` may be any bytes of any length.
v1::TrainerEvent LogEvent(v1::LogLine::Severity severity, std::string_view text);

/// `bytes` with each invalid UTF-8 sequence replaced by U+FFFD: a proto string must be UTF-8, or its reader refuses the
/// whole message. At most `bytes_max` bytes of input are looked at.
std::string ValidUtf8(std::string_view bytes, size_t bytes_max);

}  // namespace normlab::agent
