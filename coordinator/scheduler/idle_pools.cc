#include "coordinator/scheduler/idle_pools.h"

#include <algorithm>

namespace normlab::scheduler {
namespace {

/// Idle workers of each host over all pools.
std::map<std::string, size_t> CountByHost(const std::vector<IdlePool*>& pools) {
  std::map<std::string, size_t> counts;
  for (const IdlePool* pool : pools) {
    for (const auto& [host, workers] : pool->hosts()) counts[host] += workers.size();
  }
  return counts;
}

/// Largest hosts first, and for the rest the smallest host that has it: no choice needs fewer hosts, and what is left
/// over is as whole as it can be.
std::vector<std::string> ChooseHosts(std::map<std::string, size_t> counts, size_t world_size) {
  std::set<std::pair<size_t, std::string>> by_count;
  for (auto& [host, count] : counts) by_count.emplace(count, host);
  std::vector<std::string> chosen;
  while (world_size > 0) {
    auto host = by_count.lower_bound({world_size, std::string()});
    if (host == by_count.end()) host = by_count.lower_bound({by_count.rbegin()->first, std::string()});
    world_size -= std::min(world_size, host->first);
    chosen.push_back(host->second);
    by_count.erase(host);
  }
  return chosen;
}

}  // namespace

std::vector<int> PairTable::Learn(const engine::Labels& wanted) {
  std::vector<int> numbers;
  for (const auto& pair : wanted) {
    numbers.push_back(numbers_.emplace(pair, static_cast<int>(numbers_.size())).first->second);
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

std::vector<int> PairTable::Known(const engine::Labels& labels) const {
  std::vector<int> numbers;
  if (numbers_.empty()) return numbers;
  for (const auto& pair : labels) {
    const auto found = numbers_.find(pair);
    if (found != numbers_.end()) numbers.push_back(found->second);
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

void IdlePool::Recount(const std::string& host, size_t before, size_t after) {
  if (before > 0) hosts_by_count_.erase({before, host});
  if (after > 0) hosts_by_count_.emplace(after, host);
  size_ = size_ - before + after;
}

void IdlePool::Add(const std::string& host, const WorkerId& worker) {
  std::set<WorkerId>& workers = hosts_[host];
  workers.insert(worker);
  Recount(host, workers.size() - 1, workers.size());
}

const std::string* IdlePool::FindSmallestHost(size_t num_workers) const {
  const auto host = hosts_by_count_.lower_bound({num_workers, std::string()});
  return host == hosts_by_count_.end() ? nullptr : &host->second;
}

void IdlePool::Take(const std::string& host, size_t num_workers, std::vector<WorkerId>& gang) {
  const auto found = hosts_.find(host);
  if (found == hosts_.end()) return;
  std::set<WorkerId>& workers = found->second;
  const size_t before = workers.size();
  for (; num_workers > 0 && !workers.empty(); --num_workers) {
    gang.push_back(std::move(workers.extract(workers.begin()).value()));
  }
  Recount(std::string(host), before, workers.size());
  if (workers.empty()) hosts_.erase(found);
}

void IdlePool::Clear() {
  hosts_.clear();
  hosts_by_count_.clear();
  size_ = 0;
}

std::vector<WorkerId> TakeGang(const std::vector<IdlePool*>& pools, size_t world_size) {
  std::vector<WorkerId> gang;
  gang.reserve(world_size);
  for (IdlePool* pool : pools) {
    if (const std::string* host = pool->FindSmallestHost(world_size)) {
      pool->Take(std::string(*host), world_size, gang);
      return gang;
    }
  }
  for (const std::string& host : ChooseHosts(CountByHost(pools), world_size)) {
    for (IdlePool* pool : pools) pool->Take(host, world_size - gang.size(), gang);
  }
  return gang;
}

}  // namespace normlab::scheduler
