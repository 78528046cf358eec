#include "cli/progress_view.h"

#include <algorithm>
#include <cmath>

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

std::string StepsText(const v1::Run& run) {
  return fmt::format("{}/{}", run.progress().step(), run.spec().train().steps());
}

/// Columns of each part of a line; 0: left out.
struct Widths {
  int id = 0;
  int axes = 0;
  int bar = 0;
  int steps = 0;
  int loss = 0;
  int losses = 0;     // The sparkline.
  int variances = 0;  // The sparkline.
  int state = 0;
};

/// Room for speed and time left.
constexpr int kTailWidth = 24;
constexpr int kSparklineWidth = 12;
constexpr int kGap = 2;

const Trend& TrendOf(const TrendsById& trends, const v1::Run& run) {
  static const Trend kNone;
  const auto found = trends.find(RunId::Parse(run.id()).value_or(RunId{}));
  return found == trends.end() ? kNone : found->second;
}

Widths Measure(const std::vector<const v1::Run*>& runs, const TrendsById& trends, int columns) {
  Widths widths;
  int losses = 0, variances = 0;
  for (const v1::Run* run : runs) {
    widths.id = std::max(widths.id, DisplayWidth(run->id()));
    widths.axes = std::max(widths.axes, DisplayWidth(AxesText(*run)));
    widths.steps = std::max(widths.steps, DisplayWidth(StepsText(*run)));
    widths.loss = std::max(widths.loss, DisplayWidth(LossText(*run)));
    widths.state = std::max(widths.state, DisplayWidth(StateCell(*run).text));
    losses = std::max<int>(losses, std::min<size_t>(kSparklineWidth, TrendOf(trends, *run).losses.size()));
    variances = std::max<int>(variances, std::min<size_t>(kSparklineWidth, TrendOf(trends, *run).variances.size()));
  }
  widths.axes = std::min(widths.axes, 24);
  int room = columns - widths.id - widths.axes - widths.steps - widths.loss - widths.state - kTailWidth - 6 * kGap;
  if (room < kBarWidthMin) return widths;
  // A full-grown sparkline's place is kept from its first point on, so that nothing jumps.
  if (losses > 0 && room - kSparklineWidth - kGap >= kBarWidthMin) {
    widths.losses = kSparklineWidth;
    room -= kSparklineWidth + kGap;
  }
  if (variances > 0 && room - variances - kGap >= kBarWidthMin) {
    widths.variances = std::max(variances, DisplayWidth("variance"));
    room -= widths.variances + kGap;
  }
  widths.bar = std::min(std::max(room, kBarWidthMin), kBarWidthMax);
  return widths;
}

std::string PadTo(const std::string& text, int width) {
  return text + std::string(std::max(0, width - DisplayWidth(text)), ' ');
}

/// Parts of a line from left to right, two blanks between those that have room, cut off at the canvas' edge.
class Line {
 public:
  explicit Line(const Canvas& canvas) : canvas_(canvas) {}

  void Add(const std::string& text, int width, Style style = Style::kPlain) {
    if (width == 0) return;
    const std::string gap = used_ == 0 ? "" : std::string(kGap, ' ');
    const std::string fitting = Cut(gap + PadTo(text, width));
    used_ += DisplayWidth(fitting);
    text_ += Paint(fitting, style, canvas_.is_colored);
  }
  void AddRest(const std::string& text, Style style) { Add(text, DisplayWidth(text), style); }

  std::string Take() { return std::move(text_); }

 private:
  std::string Cut(const std::string& text) const { return Truncate(text, canvas_.columns - used_); }

  const Canvas& canvas_;
  std::string text_;
  int used_ = 0;
};

std::vector<double> Logarithms(const std::vector<double>& values) {
  std::vector<double> logarithms;
  for (const double value : values) logarithms.push_back(std::log(value));
  return logarithms;
}

std::string DrawRun(const v1::Run& run, const Trend& trend, const Widths& widths, const Canvas& canvas) {
  Line line(canvas);
  const Cell state = StateCell(run);
  const std::string steps = StepsText(run);
  line.Add(run.id(), widths.id);
  line.Add(Truncate(AxesText(run), widths.axes), widths.axes);
  line.Add(Bar(FractionDone(run), widths.bar, canvas.is_unicode), widths.bar);
  line.Add(std::string(std::max(0, widths.steps - DisplayWidth(steps)), ' ') + steps, widths.steps);
  line.Add(LossText(run), widths.loss);
  line.Add(Sparkline(trend.losses, widths.losses, canvas.is_unicode), widths.losses, Style::kCyan);
  line.Add(Sparkline(Logarithms(trend.variances), std::min(widths.variances, kSparklineWidth), canvas.is_unicode),
           widths.variances, Style::kYellow);
  line.Add(state.text, widths.state, state.style);
  line.AddRest(TailText(run), Style::kDim);
  return line.Take();
}

/// What the sparklines are; the other parts of a line speak for themselves.
std::string DrawHeadings(const Widths& widths, const Canvas& canvas) {
  Line line(canvas);
  const int before = widths.id + widths.axes + widths.bar + widths.steps + widths.loss;
  const int parts = 2 + (widths.axes > 0) + (widths.bar > 0) + (widths.loss > 0);
  line.Add("", before + kGap * (parts - 1), Style::kDim);
  line.Add("loss", widths.losses, Style::kDim);
  line.AddRest(widths.variances > 0 ? "variance by layer (log)" : "", Style::kDim);
  return line.Take();
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

void Extend(const std::vector<v1::StepHistory>& history, Trend* trend) {
  for (const v1::StepHistory& step : history) {
    // A new attempt does steps again.
    trend->last_step = std::max(trend->last_step, step.step());
    if (step.has_report()) trend->losses.push_back(step.report().loss());
    if (!step.has_layers()) continue;
    trend->variances.clear();
    for (const v1::LayerStats& layer : step.layers().layers()) trend->variances.push_back(layer.output_variance());
  }
  const size_t num_losses = trend->losses.size();
  if (num_losses > kTrendLossesMax) {
    trend->losses.erase(trend->losses.begin(), trend->losses.end() - kTrendLossesMax);
  }
}

std::vector<RunId> ShownRuns(const RunsById& runs, int rows) {
  std::vector<RunId> shown;
  for (const auto& [id, run] : runs) shown.push_back(id);
  if (static_cast<int>(shown.size()) <= std::max(1, rows)) return shown;
  std::stable_sort(shown.begin(), shown.end(), [&](RunId a, RunId b) { return Rank(runs.at(a)) < Rank(runs.at(b)); });
  shown.resize(std::max(0, rows - 1));
  return shown;
}

std::vector<std::string> DrawRuns(const std::string& title, const RunsById& runs, const TrendsById& trends,
                                  const Canvas& canvas) {
  const bool has_headings = !trends.empty() && canvas.rows > 3;
  std::vector<const v1::Run*> shown;
  for (const RunId id : ShownRuns(runs, canvas.rows - 1 - (has_headings ? 1 : 0))) shown.push_back(&runs.at(id));
  const size_t hidden = runs.size() - shown.size();
  std::vector<std::string> lines = {Paint(Truncate(title, canvas.columns), Style::kBold, canvas.is_colored)};
  const Widths widths = Measure(shown, trends, canvas.columns);
  if (has_headings) lines.push_back(widths.losses + widths.variances > 0 ? DrawHeadings(widths, canvas) : "");
  for (const v1::Run* run : shown) lines.push_back(DrawRun(*run, TrendOf(trends, *run), widths, canvas));
  if (hidden > 0) lines.push_back(Truncate(fmt::format("... and {} more; all: normlab list", hidden), canvas.columns));
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
