#include "coordinator/service/run_scan.h"

#include <algorithm>

#include "coordinator/engine/engine.h"

namespace normlab::service {

void ScanRuns(const engine::State& state, const engine::Selector& selector, std::optional<RunId> after,
              absl::FunctionRef<bool(const engine::Run& run, bool is_chosen)> visit) {
  engine::Selector rest = selector;
  rest.runs.clear();
  if (!selector.runs.empty()) {
    auto id = after ? std::upper_bound(selector.runs.begin(), selector.runs.end(), *after) : selector.runs.begin();
    for (; id != selector.runs.end(); ++id) {
      const auto run = state.runs.find(*id);
      if (run != state.runs.end() && !visit(run->second, engine::Matches(rest, run->second))) return;
    }
    return;
  }
  const RunId from = {selector.experiment.value_or(ExperimentId{}), 0};
  auto run = after && *after >= from ? state.runs.upper_bound(*after) : state.runs.lower_bound(from);
  for (; run != state.runs.end(); ++run) {
    if (selector.experiment && run->first.experiment != *selector.experiment) return;
    if (!visit(run->second, engine::Matches(rest, run->second))) return;
  }
}

}  // namespace normlab::service
