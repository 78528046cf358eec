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

/// A title and a line per run, none wider than `columns`, at most `rows` in all. When they do not fit, running ones are
/// kept before waiting ones, waiting before ended, and the last line says how many are hidden.
std::vector<std::string> DrawRuns(const std::string& title, const RunsById& runs, int columns, int rows,
                                  bool is_colored);

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
