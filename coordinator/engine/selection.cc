#include "coordinator/engine/selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "coordinator/engine/engine.h"
#include "coordinator/engine/labels.h"

namespace normlab::engine {
namespace {

/// All but the states.
bool MatchesPlace(const Selector& selector, const Run& run) {
  if (selector.experiment && run.id.experiment != *selector.experiment) return false;
  if (!HasLabels(run.info->labels, selector.labels)) return false;
  if (!selector.owner.empty() && run.info->owner != selector.owner) return false;
  if (selector.created_after && run.info->created_at < *selector.created_after) return false;
  if (selector.created_before && run.info->created_at >= *selector.created_before) return false;
  return selector.runs.empty() || std::find(selector.runs.begin(), selector.runs.end(), run.id) != selector.runs.end();
}

absl::StatusOr<std::vector<Run*>> FindNamed(State& state, const Selector& selector) {
  std::vector<RunId> ids = selector.runs;
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  Selector others = selector;
  others.runs.clear();
  std::vector<Run*> chosen;
  std::vector<std::string> unknown;
  for (const RunId& id : ids) {
    const auto found = state.runs.find(id);
    if (found == state.runs.end()) {
      unknown.push_back(id.ToString());
    } else if (MatchesPlace(others, found->second)) {
      chosen.push_back(&found->second);
    }
  }
  if (!unknown.empty()) {
    return absl::NotFoundError(fmt::format("{} of {} runs do not exist: {}; nothing was done", unknown.size(),
                                           ids.size(), NamesText(unknown)));
  }
  return chosen;
}

/// Runs of one experiment share its labels, owner and time, so that a look at the first says all of them.
std::vector<Run*> FindByExperiment(State& state, const Selector& selector) {
  std::vector<Run*> chosen;
  auto next = selector.experiment ? state.runs.lower_bound({*selector.experiment, 0}) : state.runs.begin();
  while (next != state.runs.end()) {
    const ExperimentId experiment = next->first.experiment;
    if (selector.experiment && experiment != *selector.experiment) break;
    if (!MatchesPlace(selector, next->second)) {
      next = state.runs.upper_bound({experiment, std::numeric_limits<int32_t>::max()});
      continue;
    }
    for (; next != state.runs.end() && next->first.experiment == experiment; ++next) chosen.push_back(&next->second);
  }
  return chosen;
}

std::string SelectorText(const Selector& selector) {
  std::vector<std::string> parts;
  if (!selector.runs.empty()) parts.push_back(fmt::format("one of {} named runs", selector.runs.size()));
  if (selector.experiment) parts.push_back("experiment " + selector.experiment->ToString());
  if (!selector.labels.empty()) parts.push_back("labels " + LabelsText(selector.labels));
  if (!selector.states.empty()) {
    std::string states;
    for (const RunState state : selector.states) states += fmt::format("{}{}", states.empty() ? "" : "|", Name(state));
    parts.push_back("state " + states);
  }
  if (!selector.owner.empty()) parts.push_back("owner " + selector.owner);
  if (selector.created_after) parts.push_back("created after " + absl::FormatTime(*selector.created_after));
  if (selector.created_before) parts.push_back("created before " + absl::FormatTime(*selector.created_before));
  return fmt::format("{}", fmt::join(parts, " and "));
}

}  // namespace

bool MatchesStates(const Selector& selector, const Run& run) {
  return selector.states.empty() ||
         std::find(selector.states.begin(), selector.states.end(), run.state) != selector.states.end();
}

bool Matches(const Selector& selector, const Run& run) {
  return MatchesPlace(selector, run) && MatchesStates(selector, run);
}

absl::StatusOr<std::vector<Run*>> FindAnywhere(State& state, const Selector& selector) {
  if (selector.IsEmpty()) {
    return absl::NotFoundError("the selector is empty and chooses nothing: name runs, an experiment, labels or states");
  }
  if (!selector.runs.empty()) return FindNamed(state, selector);
  if (selector.experiment && !state.experiments.contains(*selector.experiment)) {
    return absl::NotFoundError(fmt::format("there is no experiment {}", selector.experiment->ToString()));
  }
  return FindByExperiment(state, selector);
}

absl::Status NothingChosen(const Selector& selector, size_t seen) {
  return absl::NotFoundError(
      fmt::format("no run is chosen by {} ({} runs match but for their state)", SelectorText(selector), seen));
}

absl::Status CheckQueueQuota(const Transaction& tx, const std::string& owner, size_t num_more) {
  const int queued_max = tx.options.policy.queued_per_user_max;
  const auto found = tx.state.owners.find(owner);
  const size_t num_queued = found == tx.state.owners.end() ? 0 : static_cast<size_t>(found->second.num_queued);
  if (queued_max == 0 || num_queued + num_more <= static_cast<size_t>(queued_max)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("{} has {} queued runs, {} more would pass the {} that a user may have; nothing was queued: wait "
                  "until some have started, or cancel some",
                  owner, num_queued, num_more, queued_max));
}

}  // namespace normlab::engine
