#include "cli/progress_line.h"

#include <unistd.h>

#include <cstdio>

#include "absl/time/clock.h"
#include "cli/terminal.h"
#include "cli/units.h"
#include "fmt/format.h"

namespace normlab::cli {

ProgressLine::ProgressLine(std::string what, bool is_silent)
    : what_(std::move(what)),
      is_silent_(is_silent),
      is_live_(IsTerminal(STDERR_FILENO)),
      started_at_(absl::Now()),
      printed_at_(absl::Now()) {
  if (!is_silent_ && is_live_) Print(0);
}

ProgressLine::~ProgressLine() {
  if (!is_silent_ && is_live_ && !is_finished_) fmt::print(stderr, "\n");
}

void ProgressLine::Finish() {
  is_finished_ = true;
  if (is_silent_) return;
  const std::string took = absl::FormatDuration(absl::Trunc(absl::Now() - started_at_, absl::Milliseconds(10)));
  fmt::print(stderr, "{}{}  {}  {}{}\n", is_live_ ? "\r" : "", what_, detail_, took, is_live_ ? "\x1b[K" : "");
}

void ProgressLine::Update(double fraction, const std::string& detail) {
  detail_ = detail;
  const absl::Duration interval = is_live_ ? absl::Milliseconds(100) : absl::Seconds(5);
  if (is_silent_ || absl::Now() - printed_at_ < interval) return;
  printed_at_ = absl::Now();
  Print(fraction);
}

void ProgressLine::Print(double fraction) {
  if (is_live_) {
    fmt::print(stderr, "\r{}  {}  {}\x1b[K", what_, Bar(fraction, 24), detail_);
    std::fflush(stderr);
  } else {
    fmt::print(stderr, "{}  {:3.0f}%  {}\n", what_, fraction * 100, detail_);
  }
}

}  // namespace normlab::cli
