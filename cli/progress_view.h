// What `normlab watch` draws: pure functions from runs to lines.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/ids.h"
#include "normlab/v1/run.pb.h"

namespace normlab::cli {

using RunsById = std::map<RunId, v1::Run>;

/// "2 running, 3 queued": how many runs are in each state, in order of a run's life.
std::string CountStates(const RunsById& runs);

/// How a run has gone on.
struct Trend {
  int64_t last_step = 0;          // Up to which its history has been read.
  std::vector<double> losses;     // Of training, oldest first.
  std::vector<double> variances;  // Of each layer's output, at the last layer report.
};
using TrendsById = std::map<RunId, Trend>;

/// What the terminal shows.
struct Canvas {
  int columns = 80;
  int rows = 24;
  bool is_colored = false;
  bool is_unicode = true;
};

/// Takes in more of a run's history. Keeps the newest losses: at most kTrendLossesMax.
void Extend(const std::vector<v1::StepHistory>& history, Trend* trend);
inline constexpr int kTrendLossesMax = 4000;

/// A title, a line of headings if there is a trend to show, and a line per run, none wider than the canvas, at most as
/// many as it has rows. When they do not fit, running ones are kept before waiting ones, waiting before ended, and the
/// last line says how many are hidden. Where a line is too short, the variances go first, then the losses, then the
/// bar. Variances are drawn by their logarithm.
std::vector<std::string> DrawRuns(const std::string& title, const RunsById& runs, const TrendsById& trends,
                                  const Canvas& canvas);
/// The runs that DrawRuns shows with `rows`, in its order.
std::vector<RunId> ShownRuns(const RunsById& runs, int rows);

/// One run as a plain line for logs: id, axes, state, step, loss, speed, time left, or how it ended.
std::string DescribeRun(const v1::Run& run);

/// Decides which changes are worth a line when the output is no terminal: each change of state or attempt, each new
/// evaluation, and progress at most once per `interval` and run.
class LineFilter {
 public:
  explicit LineFilter(absl::Duration interval) : interval_(interval) {}
  bool ShouldPrint(const v1::Run& run, absl::Time now);

 private:
  struct Last {
    v1::RunState state;
    int attempt;
    int64_t step;
    int64_t eval_step;
    absl::Time printed_at;
  };
  const absl::Duration interval_;
  std::map<std::string, Last> last_;
};

}  // namespace normlab::cli
