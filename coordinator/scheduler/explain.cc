#include <fmt/format.h>

#include <set>
#include <string>

#include "coordinator/engine/labels.h"
#include "coordinator/scheduler/scheduler.h"

namespace normlab::scheduler {
namespace {

using engine::Labels;
using engine::Run;
using engine::State;
using engine::Worker;

/// Workers with the labels that a run asks for, each counted once.
struct Census {
  int idle = 0;
  int busy = 0;
  int draining = 0;
  int cordoned = 0;
  int unreachable = 0;
  std::set<RunId> holders;  // What the busy ones run.

  int Known() const { return idle + busy + draining + cordoned + unreachable; }
};

Census Count(const State& state, const Labels& wanted) {
  Census census;
  for (const auto& [id, worker] : state.workers) {
    if (!worker.has_lease || !engine::HasLabels(worker.info.labels, wanted)) continue;
    if (worker.is_draining) {
      ++census.draining;
    } else if (worker.is_cordoned) {
      ++census.cordoned;
    } else if (worker.attempt) {
      ++census.busy;
      census.holders.insert(worker.attempt->run);
    } else if (!worker.is_connected) {
      ++census.unreachable;
    } else {
      ++census.idle;
    }
  }
  return census;
}

std::string HoldersText(const std::set<RunId>& holders) {
  std::vector<std::string> names;
  for (const RunId& run : holders) names.push_back(run.ToString());
  return engine::NamesText(names);
}

std::string NeedText(const Run& run) {
  const int world_size = run.info->world_size;
  const std::string labels = engine::LabelsText(run.info->worker_labels);
  return fmt::format("needs {} worker{}{}", world_size, world_size == 1 ? "" : "s",
                     labels.empty() ? "" : " with " + labels);
}

std::string CensusText(const Census& census) {
  std::string text = fmt::format("{} idle, {} busy", census.idle, census.busy);
  if (!census.holders.empty()) text += fmt::format(" ({})", HoldersText(census.holders));
  text += fmt::format(", {} draining", census.draining);
  if (census.cordoned > 0) text += fmt::format(", {} cordoned", census.cordoned);
  if (census.unreachable > 0) text += fmt::format(", {} unreachable", census.unreachable);
  return text;
}

/// How many runs stand before it in the queue, in words; counting stops where the number says nothing more.
std::string AheadText(const State& state, const Run& run) {
  constexpr int kCountMax = 1000;
  int ahead = 0;
  auto place = state.queue.find(engine::KeyOf(run));
  while (place != state.queue.begin() && ahead < kCountMax) {
    --place;
    ++ahead;
  }
  if (place != state.queue.begin()) return fmt::format("more than {} runs are ahead", kCountMax);
  if (ahead == 0) return "it is first in the queue";
  return fmt::format("{} run{} ahead", ahead, ahead == 1 ? " is" : "s are");
}

}  // namespace

std::string ExplainWait(const State& state, const Run& run, absl::Time now) {
  if (run.state != engine::RunState::kQueued) return run.reason;
  if (run.not_before && *run.not_before > now) {
    return fmt::format("waits until {} UTC (backoff after failure {} of {}: {})",
                       absl::FormatTime("%H:%M:%S", *run.not_before, absl::UTCTimeZone()), run.failures,
                       run.info->retries_max, run.outcome_detail);
  }
  const Labels& wanted = run.info->worker_labels;
  const Census census = Count(state, wanted);
  if (census.Known() == 0) {
    return wanted.empty() ? "no worker is known" : "no known worker has " + engine::LabelsText(wanted);
  }
  if (census.Known() < run.info->world_size) {
    return fmt::format("{}: only {} {} known ({})", NeedText(run), census.Known(), census.Known() == 1 ? "is" : "are",
                       CensusText(census));
  }
  return fmt::format("{}: {}; {}", NeedText(run), CensusText(census), AheadText(state, run));
}

}  // namespace normlab::scheduler
