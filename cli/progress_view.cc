#include "cli/progress_view.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "cli/format.h"
#include "cli/terminal.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::cli {
namespace {

constexpr int kBarWidthMax = 24;
constexpr int kBarWidthMin = 6;

double FractionDone(const v1::Run& run) {
  const int64_t steps = run.spec().train().steps();
  if (run.state() == v1::SUCCEEDED) return 1;
  return steps > 0 ? static_cast<double>(run.progress().step()) / static_cast<double>(steps) : 0;
}

std::string LossText(const v1::Run& run) {
  const v1::RunProgress& progress = run.progress();
  if (run.state() == v1::SUCCEEDED && progress.has_eval()) return fmt::format("val {:.4f}", progress.eval().loss());
  return progress.step() > 0 ? fmt::format("loss {:.4f}", progress.loss()) : "";
}

/// Speed and time left while it runs, else why it is where it is.
std::string TailText(const v1::Run& run) {
  if (run.state() == v1::RUNNING && run.progress().tokens_per_second() > 0) {
    return fmt::format("{} tok/s  ETA {}", CountText(run.progress().tokens_per_second()), DurationText(TimeLeft(run)));
  }
  if (run.state() == v1::SUCCEEDED) return "";
  return Printable(run.reason());
}

struct Widths {
  int id = 0;
  int axes = 0;
  int steps = 0;
  int loss = 0;
  int state = 0;
};

std::string StepsText(const v1::Run& run) {
  return fmt::format("{}/{}", run.progress().step(), run.spec().train().steps());
}

Widths Measure(const std::vector<const v1::Run*>& runs) {
  Widths widths;
  for (const v1::Run* run : runs) {
    widths.id = std::max(widths.id, DisplayWidth(run->id()));
    widths.axes = std::max(widths.axes, DisplayWidth(AxesText(*run)));
    widths.steps = std::max(widths.steps, DisplayWidth(StepsText(*run)));
    widths.loss = std::max(widths.loss, DisplayWidth(LossText(*run)));
    widths.state = std::max(widths.state, DisplayWidth(StateCell(*run).text));
  }
  widths.axes = std::min(widths.axes, 24);
  return widths;
}

std::string PadTo(const std::string& text, int width) {
  return text + std::string(std::max(0, width - DisplayWidth(text)), ' ');
}

std::string DrawRun(const v1::Run& run, const Widths& widths, int columns, bool is_colored) {
  const Cell state = StateCell(run);
  const std::string left =
      fmt::format("{}  {}  ", PadTo(run.id(), widths.id), PadTo(Truncate(AxesText(run), widths.axes), widths.axes));
  const std::string right = fmt::format(
      "  {}  {}  ",
      PadTo(std::string(std::max(0, widths.steps - DisplayWidth(StepsText(run))), ' ') + StepsText(run), widths.steps),
      PadTo(LossText(run), widths.loss));
  // What is needed beside the bar, with room for speed and time left.
  const int room = columns - DisplayWidth(left) - DisplayWidth(right) - widths.state - 2 - 24;
  const int bar_width = std::min(room, kBarWidthMax);
  const std::string bar = bar_width >= kBarWidthMin ? Bar(FractionDone(run), bar_width) : "";
  const std::string head = Truncate(left + bar + right, columns);
  int used = DisplayWidth(head);
  const std::string state_text = Truncate(PadTo(state.text, widths.state), columns - used);
  used += DisplayWidth(state_text);
  std::string line = head + Paint(state_text, state.style, is_colored);
  if (const std::string tail = TailText(run); !tail.empty()) {
    line += Paint(Truncate("  " + tail, columns - used), Style::kDim, is_colored);
  }
  return line;
}

/// Smaller is more worth a line.
int Rank(const v1::Run& run) {
  switch (run.state()) {
    case v1::RUNNING:
    case v1::STOPPING:
    case v1::STARTING:
      return 0;
    case v1::FAILED:
      return 1;
    case v1::QUEUED:
      return 2;
    default:
      return 3;
  }
}

}  // namespace

std::string CountStates(const RunsById& runs) {
  std::map<int, int> counts;
  for (const auto& [id, run] : runs) ++counts[run.state()];
  std::vector<std::string> words;
  for (const auto& [state, count] : counts) {
    words.push_back(
        fmt::format("{} {}", count, absl::AsciiStrToLower(v1::RunState_Name(static_cast<v1::RunState>(state)))));
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

std::vector<std::string> DrawRuns(const std::string& title, const RunsById& runs, int columns, int rows,
                                  bool is_colored) {
  std::vector<const v1::Run*> shown;
  for (const auto& [id, run] : runs) shown.push_back(&run);
  const int room = std::max(1, rows - 1);
  int hidden = 0;
  if (static_cast<int>(shown.size()) > room) {
    const int kept = std::max(0, room - 1);
    hidden = static_cast<int>(shown.size()) - kept;
    std::stable_sort(shown.begin(), shown.end(), [](const auto* a, const auto* b) { return Rank(*a) < Rank(*b); });
    shown.resize(kept);
  }
  std::vector<std::string> lines = {Paint(Truncate(title, columns), Style::kBold, is_colored)};
  const Widths widths = Measure(shown);
  for (const v1::Run* run : shown) lines.push_back(DrawRun(*run, widths, columns, is_colored));
  if (hidden > 0) lines.push_back(Truncate(fmt::format("... and {} more; all: normlab list", hidden), columns));
  return lines;
}

std::string DescribeRun(const v1::Run& run) {
  std::vector<std::string> words = {run.id()};
  if (const std::string axes = AxesText(run); !axes.empty()) words.push_back(axes);
  words.push_back(StateCell(run).text);
  words.push_back("step " + StepsText(run));
  if (const std::string loss = LossText(run); !loss.empty()) words.push_back(loss);
  if (const std::string tail = TailText(run); !tail.empty()) words.push_back(tail);
  return fmt::format("{}", fmt::join(words, "  "));
}

bool LineFilter::ShouldPrint(const v1::Run& run, absl::Time now) {
  const Last current = {run.state(), run.attempt(), run.progress().step(), run.progress().eval().step(), now};
  const auto [found, is_new] = last_.emplace(run.id(), current);
  if (is_new) return true;
  Last& last = found->second;
  const bool is_news =
      last.state != current.state || last.attempt != current.attempt || last.eval_step != current.eval_step;
  const bool is_due = last.step != current.step && now - last.printed_at >= interval_;
  if (!is_news && !is_due) return false;
  last = current;
  return true;
}

}  // namespace normlab::cli
