#include "coordinator/scheduler/scheduler.h"

#include <algorithm>
#include <optional>
#include <set>

#include "coordinator/engine/labels.h"
#include "coordinator/scheduler/cluster.h"
#include "coordinator/scheduler/order.h"

namespace normlab::scheduler {
namespace {

using engine::Demand;
using engine::Policy;
using engine::Run;
using engine::RunState;
using engine::State;

/// Blocked runs of one pass that may take others' workers: bounds what a pass costs.
constexpr int kPreemptingMax = 8;

std::vector<const engine::Labels*> WantedLabels(const State& state) {
  std::vector<const engine::Labels*> wanted;
  for (const auto& [key, places] : state.lines) wanted.push_back(&key.demand.worker_labels);
  return wanted;
}

/// One pass over the queue.
class Pass {
 public:
  Pass(const State& state, const Policy& policy, absl::Time now)
      : state_(state), policy_(policy), now_(now), order_(state, policy, now), cluster_(state, WantedLabels(state)) {}

  Decision Run() {
    while (cluster_.num_idle() > 0 || MayPreempt()) {
      QueueOrder::Line* line = order_.TakeFirst();
      if (line == nullptr) break;
      // Whoever stands behind in the same line asks the same of even fewer workers.
      if (PlaceOrReserve(*line)) order_.Advance(line);
    }
    return std::move(decision_);
  }

 private:
  /// Whether some waiting run has a higher priority than some live one.
  bool MayPreempt() const {
    return num_preempting_ < kPreemptingMax && !state_.live_by_priority.empty() && !state_.lines.empty() &&
           state_.live_by_priority.begin()->first < -state_.lines.begin()->first.negative_priority;
  }

  bool IsOverQuota(const QueueOrder::Line& line, int world_size) const {
    return policy_.workers_per_user_max > 0 && order_.WorkersOf(line) + world_size > policy_.workers_per_user_max;
  }

  bool Exists(const std::vector<Cluster::Classes>& serving, int world_size) const {
    return std::any_of(serving.begin(), serving.end(),
                       [&](const auto& classes) { return cluster_.Capacity(classes) >= world_size; });
  }

  /// The largest allowed gang that known workers can form; 0 if there is none.
  int ChooseWorld(const Demand& demand, const std::vector<Cluster::Classes>& serving) const {
    if (Exists(serving, demand.world_size)) return demand.world_size;
    for (const int smaller : demand.smaller_worlds) {
      if (Exists(serving, smaller)) return smaller;
    }
    return 0;
  }

  /// False if the first run of the line cannot be placed now.
  bool PlaceOrReserve(const QueueOrder::Line& line) {
    const std::vector<Cluster::Classes>& serving = cluster_.Serving(line.key->demand.worker_labels);
    const int world_size = ChooseWorld(line.key->demand, serving);
    if (world_size == 0 || IsOverQuota(line, world_size)) return false;
    for (const Cluster::Classes& classes : serving) {
      if (cluster_.CountIdle(classes) < world_size) continue;
      decision_.placements.push_back({line.run(), cluster_.TakeGang(classes, world_size)});
      order_.Charge(line, world_size);
      return true;
    }
    if (MayPreempt()) Preempt(line, serving, world_size);
    for (const Cluster::Classes& classes : serving) cluster_.Reserve(classes);
    return false;
  }

  /// Workers of `run`'s gang that are of these classes.
  int CountServing(const engine::Run& run, const Cluster::Classes& classes) const {
    return static_cast<int>(std::count_if(run.gang.begin(), run.gang.end(), [&](const WorkerId& id) {
      const auto worker = state_.workers.find(id);
      if (worker == state_.workers.end()) return false;
      const int number = cluster_.ClassOf(worker->second);
      return std::find(classes.begin(), classes.end(), number) != classes.end();
    }));
  }

  bool IsVictim(const engine::Run& run) const {
    return run.state == RunState::kRunning && run.outcome == engine::Outcome::kNone &&
           run.info->on_preemption != engine::RequeuePolicy::kNever && !victims_.contains(run.id) && run.started_at &&
           now_ - *run.started_at >= policy_.run_time_min;
  }

  /// Takes what is missing from running runs of lower priority, the lowest first, if they have enough.
  void Preempt(const QueueOrder::Line& line, const std::vector<Cluster::Classes>& serving, int world_size) {
    const int priority = -line.key->negative_priority;
    if (state_.live_by_priority.begin()->first >= priority) return;
    ++num_preempting_;
    for (const Cluster::Classes& classes : serving) {
      if (cluster_.Capacity(classes) < world_size) continue;
      int missing = world_size - cluster_.CountIdle(classes);
      std::vector<std::pair<RunId, int>> chosen;
      for (const auto& [other, id] : state_.live_by_priority) {
        const engine::Run& run = state_.runs.at(id);
        // What stops already will be free without anybody's help.
        const bool is_stopping = run.state == RunState::kStopping || victims_.contains(id);
        if (!is_stopping && (other >= priority || !IsVictim(run))) continue;
        const int count = CountServing(run, classes);
        if (count == 0) continue;
        missing -= count;
        if (!is_stopping) chosen.emplace_back(id, count);
      }
      if (missing > 0) continue;
      // Spare the ones of higher priority that are not needed.
      for (auto victim = chosen.rbegin(); victim != chosen.rend(); ++victim) {
        if (missing + victim->second <= 0) {
          missing += victim->second;
          continue;
        }
        victims_.insert(victim->first);
        decision_.preemptions.push_back({victim->first, line.run()});
      }
      return;
    }
  }

  const State& state_;
  const Policy& policy_;
  const absl::Time now_;
  QueueOrder order_;
  Cluster cluster_;
  Decision decision_;
  std::set<RunId> victims_;
  int num_preempting_ = 0;
};

}  // namespace

Decision Schedule(const State& state, const Policy& policy, absl::Time now) {
  const bool may_preempt = !state.lines.empty() && !state.live_by_priority.empty() &&
                           state.live_by_priority.begin()->first < -state.lines.begin()->first.negative_priority;
  if (state.lines.empty() || (state.idle_workers.empty() && !may_preempt)) return {};
  return Pass(state, policy, now).Run();
}

}  // namespace normlab::scheduler
