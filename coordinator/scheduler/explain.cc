#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/engine/labels.h"
#include "coordinator/scheduler/order.h"
#include "coordinator/scheduler/scheduler.h"

namespace normlab::scheduler {
namespace {

using engine::Labels;
using engine::Policy;
using engine::Run;
using engine::State;
using engine::Worker;

/// Workers with the labels that a run asks for, each counted once.
struct Census {
  int idle = 0;
  int draining = 0;
  int cordoned = 0;
  int unreachable = 0;
  std::map<RunId, int> busy;  // What the busy ones run, and how many of them.

  int NumBusy() const {
    int count = 0;
    for (const auto& [run, num_workers] : busy) count += num_workers;
    return count;
  }
  int Known() const { return idle + NumBusy() + draining + cordoned + unreachable; }
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
      ++census.busy[worker.attempt->run];
    } else if (!worker.is_connected) {
      ++census.unreachable;
    } else {
      ++census.idle;
    }
  }
  return census;
}

/// When `run` has done its steps at its present speed; nullopt before it has reported one.
std::optional<absl::Time> EstimateEnd(const Run& run, absl::Time now) {
  const engine::Progress& progress = run.progress;
  if (progress.step <= 0 || progress.tokens <= 0 || progress.tokens_per_second <= 0) return std::nullopt;
  const double tokens_per_step = static_cast<double>(progress.tokens) / static_cast<double>(progress.step);
  const double steps_left = static_cast<double>(std::max<int64_t>(0, run.info->steps - progress.step));
  return now + absl::Seconds(steps_left * tokens_per_step / progress.tokens_per_second);
}

std::string ClockText(absl::Time time, absl::Time now) {
  const char* format = time - now < absl::Hours(20) ? "%H:%M" : "%Y-%m-%d %H:%M";
  return absl::FormatTime(format, time, absl::UTCTimeZone()) + " UTC";
}

/// "enough at about 14:20 UTC when exp-0003.01 ends", or nothing where the ends of too many runs are not known.
std::string NextText(const State& state, const Census& census, int world_size, absl::Time now) {
  std::vector<std::pair<absl::Time, RunId>> ends;
  for (const auto& [id, num_workers] : census.busy) {
    const auto run = state.runs.find(id);
    if (run == state.runs.end()) continue;
    if (const auto end = EstimateEnd(run->second, now)) ends.emplace_back(*end, id);
  }
  std::sort(ends.begin(), ends.end());
  int free = census.idle;
  for (const auto& [end, id] : ends) {
    free += census.busy.at(id);
    if (free >= world_size) return fmt::format("; enough at about {} when {} ends", ClockText(end, now), id.ToString());
  }
  return "";
}

std::string NeedText(const Run& run) {
  const int world_size = run.info->world_size;
  const std::string labels = engine::LabelsText(run.info->worker_labels);
  return fmt::format("needs {} worker{}{}", world_size, world_size == 1 ? "" : "s",
                     labels.empty() ? "" : " with " + labels);
}

std::string CensusText(const Census& census) {
  std::string text = fmt::format("{} {} free", census.idle, census.idle == 1 ? "is" : "are");
  if (!census.busy.empty()) {
    std::vector<std::string> names;
    for (const auto& [run, num_workers] : census.busy) names.push_back(run.ToString());
    text += fmt::format(", {} busy ({})", census.NumBusy(), engine::NamesText(names));
  }
  if (census.draining > 0) text += fmt::format(", {} draining", census.draining);
  if (census.cordoned > 0) text += fmt::format(", {} cordoned", census.cordoned);
  if (census.unreachable > 0) text += fmt::format(", {} unreachable", census.unreachable);
  return text;
}

std::string PositionText(int64_t position) {
  if (position == 1) return "first in the queue";
  return fmt::format("number {} in the queue", position);
}

/// Explains runs of one state, counting workers once for each set of labels.
class Explainer {
 public:
  Explainer(const State& state, const Policy& policy, absl::Time now) : state_(state), policy_(policy), now_(now) {}

  /// `place`: where it stands, in words.
  std::string Explain(const Run& run, const std::string& place) {
    if (run.state != engine::RunState::kQueued) return run.reason;
    if (run.is_held) return fmt::format("{}; back with: normlab release {}", run.reason, run.id.ToString());
    if (run.not_before && *run.not_before > now_) {
      return fmt::format("waits until {} UTC (backoff after failure {} of {}: {})",
                         absl::FormatTime("%H:%M:%S", *run.not_before, absl::UTCTimeZone()), run.failures,
                         run.info->retries_max, run.outcome_detail);
    }
    const Census& census = CensusOf(run.info->worker_labels);
    switch (ReasonOf(run)) {
      case WaitReason::kNoWorker: {
        const std::string labels = engine::LabelsText(run.info->worker_labels);
        return labels.empty() ? "no worker is known" : "no known worker has " + labels;
      }
      case WaitReason::kTooFewWorkers:
        return fmt::format("{}: only {} {} known ({})", NeedText(run), census.Known(),
                           census.Known() == 1 ? "is" : "are", CensusText(census));
      case WaitReason::kQuota:
        return QuotaText(run) + "; " + place;
      default:
        return fmt::format("{}; {}{}; {}", NeedText(run), CensusText(census),
                           NextText(state_, census, run.info->world_size, now_), place);
    }
  }

  /// Of a run that is neither held nor in backoff.
  WaitReason ReasonOf(const Run& run) {
    const int num_known = CensusOf(run.info->worker_labels).Known();
    const int smallest = run.info->smaller_worlds.empty() ? run.info->world_size : run.info->smaller_worlds.back();
    if (num_known == 0) return WaitReason::kNoWorker;
    if (num_known < smallest) return WaitReason::kTooFewWorkers;
    return IsPastQuota(run) ? WaitReason::kQuota : WaitReason::kWorkersBusy;
  }

 private:
  const Census& CensusOf(const Labels& labels) {
    const auto [found, is_new] = censuses_.try_emplace(labels);
    if (is_new) found->second = Count(state_, labels);
    return found->second;
  }

  int WorkersOf(const std::string& name) const {
    const auto owner = state_.owners.find(name);
    return owner == state_.owners.end() ? 0 : owner->second.num_workers;
  }

  bool IsPastQuota(const Run& run) const {
    const int workers_max = policy_.workers_per_user_max;
    return workers_max != 0 && WorkersOf(run.info->owner) + run.info->world_size > workers_max;
  }

  std::string QuotaText(const Run& run) const {
    return fmt::format("{}: {} has {} of the {} workers that a user may have", NeedText(run), run.info->owner,
                       WorkersOf(run.info->owner), policy_.workers_per_user_max);
  }

  const State& state_;
  const Policy& policy_;
  const absl::Time now_;
  std::map<Labels, Census> censuses_;
};

/// Runs in the order in which they would be placed if there were workers enough, until `visit` returns false.
template <typename Visit>
void VisitInOrder(const State& state, const Policy& policy, absl::Time now, const Visit& visit) {
  QueueOrder order(state, policy, now);
  while (QueueOrder::Line* line = order.TakeFirst()) {
    if (!visit(state.runs.at(line->run()))) return;
    order.Charge(*line, line->key->demand.world_size);
    order.Advance(line);
  }
}

}  // namespace

std::string ExplainWait(const State& state, const Policy& policy, const Run& run, absl::Time now) {
  constexpr int64_t kPositionMax = 10'000;  // Counting stops where the number says nothing more.
  std::string place;
  if (run.state == engine::RunState::kQueued && !run.is_held) {
    int64_t position = 0;
    VisitInOrder(state, policy, now, [&](const Run& visited) {
      ++position;
      if (visited.id == run.id) place = PositionText(position);
      return place.empty() && position < kPositionMax;
    });
    if (place.empty()) place = fmt::format("behind number {} in the queue", position);
  }
  return Explainer(state, policy, now).Explain(run, place);
}

const char* Name(WaitReason reason) {
  constexpr const char* kNames[kNumWaitReasons] = {"held",  "backoff",     "no_worker", "too_few_workers",
                                                   "quota", "workers_busy"};
  return kNames[static_cast<size_t>(reason)];
}

std::array<int64_t, kNumWaitReasons> CountWaits(const State& state, const Policy& policy, absl::Time now) {
  std::array<int64_t, kNumWaitReasons> counts{};
  const auto count_of = [&](WaitReason reason) -> int64_t& { return counts[static_cast<size_t>(reason)]; };
  Explainer explainer(state, policy, now);
  int64_t num_waiting = 0;
  // All of a line ask the same for the same user.
  for (const auto& [key, places] : state.lines) {
    const int64_t num_runs = static_cast<int64_t>(places.size());
    count_of(explainer.ReasonOf(state.runs.at(places.begin()->id))) += num_runs;
    num_waiting += num_runs;
  }
  for (const auto& [not_before, id] : state.backoffs) {
    const Run& run = state.runs.at(id);
    if (not_before <= now || run.is_held) continue;
    --count_of(explainer.ReasonOf(run));
    ++count_of(WaitReason::kBackoff);
  }
  count_of(WaitReason::kHeld) = static_cast<int64_t>(state.queue.size()) - num_waiting;
  return counts;
}

std::vector<Waiting> ListWaiting(const State& state, const Policy& policy, absl::Time now, size_t offset,
                                 size_t limit) {
  std::vector<Waiting> list;
  Explainer explainer(state, policy, now);
  size_t index = 0;
  const auto add = [&](const Run& run, bool has_place) {
    if (index++ >= offset) {
      const int64_t position = has_place ? static_cast<int64_t>(index) : 0;
      list.push_back({run.id, position, explainer.Explain(run, has_place ? PositionText(position) : "")});
    }
    return list.size() < limit;
  };
  VisitInOrder(state, policy, now, [&](const Run& run) { return add(run, true); });
  if (list.size() >= limit) return list;
  for (const auto& [not_before, id] : state.backoffs) {
    const Run& run = state.runs.at(id);
    if (not_before > now && !run.is_held && !add(run, false)) return list;
  }
  for (const engine::QueueKey& key : state.queue) {
    const Run& run = state.runs.at(key.id);
    if (run.is_held && !add(run, false)) return list;
  }
  return list;
}

}  // namespace normlab::scheduler
