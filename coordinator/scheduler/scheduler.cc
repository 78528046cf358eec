#include "coordinator/scheduler/scheduler.h"

#include <algorithm>
#include <queue>

#include "coordinator/engine/labels.h"
#include "coordinator/scheduler/idle_pools.h"

namespace normlab::scheduler {
namespace {

using engine::Demand;
using engine::QueueKey;
using engine::State;
using engine::Worker;
using PairNumbers = std::vector<int>;

/// Queued runs that ask the same of the cluster, in queue order.
struct Line {
  const Demand* demand;
  PairNumbers wanted;
  std::set<QueueKey>::const_iterator next;
  std::set<QueueKey>::const_iterator end;
  std::vector<IdlePool*> pools;  // That serve it, plainest workers first.

  size_t CountIdle() const {
    size_t count = 0;
    for (const IdlePool* pool : pools) count += pool->size();
    return count;
  }
};

/// One pass over the queue.
class Pass {
 public:
  Pass(const State& state, absl::Time now) : state_(state), now_(now) {
    MakeLines();
    MakePools();
  }

  std::vector<Placement> Run() {
    const auto is_later = [](const Line* a, const Line* b) { return *b->next < *a->next; };
    std::priority_queue<Line*, std::vector<Line*>, decltype(is_later)> heads(is_later);
    for (Line& line : lines_) {
      if (SkipBackoff(line)) heads.push(&line);
    }
    std::vector<Placement> placements;
    while (!heads.empty() && num_idle_ > 0) {
      Line& line = *heads.top();
      heads.pop();
      // Whoever stands behind in the same line asks the same of even fewer workers.
      if (!PlaceOrReserve(line, placements)) continue;
      ++line.next;
      if (SkipBackoff(line)) heads.push(&line);
    }
    return placements;
  }

 private:
  void MakeLines() {
    for (const auto& [demand, runs] : state_.queue_by_demand) {
      lines_.push_back({&demand, pairs_.Learn(demand.worker_labels), runs.begin(), runs.end(), {}});
    }
  }

  void MakePools() {
    for (const WorkerId& id : state_.idle_workers) {
      const Worker& worker = state_.workers.at(id);
      pools_[pairs_.Known(worker.info.labels)].Add(worker.info.host, id);
    }
    num_idle_ = state_.idle_workers.size();
    for (Line& line : lines_) {
      for (auto& [has, pool] : pools_) {
        if (std::includes(has.begin(), has.end(), line.wanted.begin(), line.wanted.end())) line.pools.push_back(&pool);
      }
    }
    // Workers with labels that others ask for are kept for those others as long as plainer ones do.
    std::map<const IdlePool*, size_t> num_pairs;
    for (const auto& [has, pool] : pools_) num_pairs[&pool] = has.size();
    for (Line& line : lines_) {
      std::stable_sort(line.pools.begin(), line.pools.end(),
                       [&](const IdlePool* a, const IdlePool* b) { return num_pairs.at(a) < num_pairs.at(b); });
    }
  }

  /// Moves on to a run that may start now; false if the line has none.
  bool SkipBackoff(Line& line) const {
    if (state_.backoffs.empty()) return line.next != line.end;
    for (; line.next != line.end; ++line.next) {
      const engine::Run& run = state_.runs.at(line.next->id);
      if (!run.not_before || *run.not_before <= now_) return true;
    }
    return false;
  }

  /// False if the first run of the line cannot be placed now.
  bool PlaceOrReserve(Line& line, std::vector<Placement>& placements) {
    const size_t world_size = static_cast<size_t>(line.demand->world_size);
    const size_t num_idle = line.CountIdle();
    if (num_idle >= world_size) {
      placements.push_back({line.next->id, TakeGang(line.pools, world_size)});
      num_idle_ -= world_size;
      return true;
    }
    if (num_idle > 0 && GangExists(line)) {
      for (IdlePool* pool : line.pools) pool->Clear();
      num_idle_ -= num_idle;
    }
    return false;
  }

  /// Whether enough workers are known that will be free one day.
  bool GangExists(const Line& line) {
    if (capacity_.empty()) {
      for (const auto& [id, worker] : state_.workers) {
        if (worker.has_lease && !worker.is_cordoned && !worker.is_draining) {
          ++capacity_[pairs_.Known(worker.info.labels)];
        }
      }
    }
    int count = 0;
    for (const auto& [has, num_workers] : capacity_) {
      if (std::includes(has.begin(), has.end(), line.wanted.begin(), line.wanted.end())) count += num_workers;
    }
    return count >= line.demand->world_size;
  }

  const State& state_;
  const absl::Time now_;
  PairTable pairs_;
  std::vector<Line> lines_;
  std::map<PairNumbers, IdlePool> pools_;
  std::map<PairNumbers, int> capacity_;  // Filled when the first run has to reserve.
  size_t num_idle_ = 0;
};

}  // namespace

std::vector<Placement> PlaceGangs(const State& state, absl::Time now) {
  if (state.queue.empty() || state.idle_workers.empty()) return {};
  return Pass(state, now).Run();
}

}  // namespace normlab::scheduler
