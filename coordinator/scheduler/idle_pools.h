#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/engine/labels.h"
#include "coordinator/engine/state.h"

namespace normlab::scheduler {

/// Which label pairs matter now: those that some queued run asks for. Two workers that differ only in others are the
/// same to the scheduler, so that a label with the worker's own name makes no pool of one.
class PairTable {
 public:
  /// Numbers of the pairs, sorted; pairs that are new get a number.
  std::vector<int> Learn(const engine::Labels& wanted);

  /// Numbers, sorted, of those pairs of `labels` that were learned.
  std::vector<int> Known(const engine::Labels& labels) const;

 private:
  std::map<std::pair<std::string, std::string>, int> numbers_;
};

/// Idle workers that are the same to the scheduler, by host.
class IdlePool {
 public:
  void Add(const std::string& host, const WorkerId& worker);

  size_t size() const { return size_; }
  const std::map<std::string, std::set<WorkerId>>& hosts() const { return hosts_; }

  /// The host with the fewest idle workers that still has `num_workers`, or null.
  const std::string* FindSmallestHost(size_t num_workers) const;

  /// Removes at most `num_workers` of the host's workers, in order of name, and appends them to `gang`.
  void Take(const std::string& host, size_t num_workers, std::vector<WorkerId>& gang);

  void Clear();

 private:
  void Recount(const std::string& host, size_t before, size_t after);

  std::map<std::string, std::set<WorkerId>> hosts_;
  std::set<std::pair<size_t, std::string>> hosts_by_count_;
  size_t size_ = 0;
};

/// Takes `world_size` workers out of `pools` on as few hosts as there are; the pools together have enough. The pools
/// stand in order of preference: with as few hosts, an earlier pool gives first.
std::vector<WorkerId> TakeGang(const std::vector<IdlePool*>& pools, size_t world_size);

}  // namespace normlab::scheduler
