#include "coordinator/scheduler/cluster.h"

#include <algorithm>

namespace normlab::scheduler {

using engine::Labels;
using engine::Worker;

Cluster::Cluster(const engine::State& state, const std::vector<const Labels*>& wanted) {
  for (const Labels* labels : wanted) {
    for (const auto& [key, value] : *labels) {
      auto& values = numbers_[key];
      const bool is_known =
          std::any_of(values.begin(), values.end(), [&](const auto& known) { return known.first == value; });
      if (!is_known) values.emplace_back(value, num_pairs_++);
    }
  }
  host_numbers_.reserve(state.workers.size());
  for (const auto& [id, worker] : state.workers) {
    if (worker.has_lease && !worker.is_cordoned && !worker.is_draining) Add(worker);
  }
}

Cluster::Pairs Cluster::Known(const Labels& labels) const {
  Pairs pairs;
  if (numbers_.empty()) return pairs;
  for (const auto& [key, value] : labels) {
    const auto values = numbers_.find(key);
    if (values == numbers_.end()) continue;
    for (const auto& [known, number] : values->second) {
      if (known == value) pairs.push_back(number);
    }
  }
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

void Cluster::Add(const Worker& worker) {
  const auto [number, is_new] =
      class_numbers_.try_emplace({worker.info.build, Known(worker.info.labels)}, static_cast<int>(classes_.size()));
  if (is_new) classes_.push_back({number->first.first, number->first.second});
  Class& its_class = classes_[static_cast<size_t>(number->second)];
  ++its_class.capacity;
  if (!engine::IsIdle(worker)) return;
  ++its_class.num_idle;
  ++num_idle_;
  const auto host = host_numbers_.try_emplace(worker.info.host, static_cast<int>(hosts_.size())).first->second;
  if (host == static_cast<int>(hosts_.size())) hosts_.emplace_back();
  std::vector<Slot>& slots = hosts_[static_cast<size_t>(host)];
  auto slot =
      std::find_if(slots.begin(), slots.end(), [&](const Slot& known) { return known.number == number->second; });
  if (slot == slots.end()) slot = slots.insert(slots.end(), Slot{number->second, {}});
  slot->workers.push_back(&worker);
}

int Cluster::ClassOf(const Worker& worker) const {
  if (!worker.has_lease || worker.is_cordoned || worker.is_draining) return -1;
  const auto found = class_numbers_.find({worker.info.build, Known(worker.info.labels)});
  return found == class_numbers_.end() ? -1 : found->second;
}

const std::vector<Cluster::Classes>& Cluster::Serving(const Labels& wanted) {
  const Pairs pairs = Known(wanted);
  const auto [found, is_new] = serving_.try_emplace(pairs);
  if (!is_new) return found->second;
  std::map<std::string_view, Classes> by_build;
  for (size_t i = 0; i < classes_.size(); ++i) {
    const Class& known = classes_[i];
    if (std::includes(known.pairs.begin(), known.pairs.end(), pairs.begin(), pairs.end())) {
      by_build[known.build].push_back(static_cast<int>(i));
    }
  }
  // The newest build first, as far as its name tells.
  for (auto build = by_build.rbegin(); build != by_build.rend(); ++build) {
    Classes& classes = build->second;
    std::sort(classes.begin(), classes.end(), [this](int a, int b) {
      const Pairs& of_a = classes_[static_cast<size_t>(a)].pairs;
      const Pairs& of_b = classes_[static_cast<size_t>(b)].pairs;
      return std::make_pair(of_a.size(), of_a) < std::make_pair(of_b.size(), of_b);
    });
    found->second.push_back(std::move(classes));
  }
  return found->second;
}

int Cluster::Capacity(const Classes& classes) const {
  int count = 0;
  for (const int number : classes) count += classes_[static_cast<size_t>(number)].capacity;
  return count;
}

int Cluster::CountIdle(const Classes& classes) const {
  int count = 0;
  for (const int number : classes) {
    const Class& known = classes_[static_cast<size_t>(number)];
    if (!known.is_reserved) count += known.num_idle;
  }
  return count;
}

Cluster::View& Cluster::ViewOf(const Classes& classes) {
  const auto [found, is_new] = views_.try_emplace(classes);
  View& view = found->second;
  if (!is_new) return view;
  view.has.resize(classes_.size());
  for (const int number : classes) view.has[static_cast<size_t>(number)] = true;
  view.counts.resize(hosts_.size());
  for (size_t host = 0; host < hosts_.size(); ++host) {
    for (const Slot& slot : hosts_[host]) {
      if (view.has[static_cast<size_t>(slot.number)]) {
        view.counts[host] += static_cast<int>(slot.workers.size() - slot.num_taken);
      }
    }
    if (view.counts[host] > 0) view.hosts_by_count.emplace(view.counts[host], static_cast<int>(host));
  }
  return view;
}

void Cluster::TakeFrom(int host, int num_workers, const Classes& classes, std::vector<WorkerId>& gang) {
  std::vector<Slot>& slots = hosts_[static_cast<size_t>(host)];
  for (const int number : classes) {
    if (num_workers == 0) return;
    const auto slot =
        std::find_if(slots.begin(), slots.end(), [&](const Slot& known) { return known.number == number; });
    if (slot == slots.end()) continue;
    const int count = std::min(num_workers, static_cast<int>(slot->workers.size() - slot->num_taken));
    if (count == 0) continue;
    for (int i = 0; i < count; ++i) gang.push_back(slot->workers[slot->num_taken++]->id);
    num_workers -= count;
    num_idle_ -= count;
    classes_[static_cast<size_t>(number)].num_idle -= count;
    for (auto& [unused, view] : views_) {
      if (!view.has[static_cast<size_t>(number)]) continue;
      int& left = view.counts[static_cast<size_t>(host)];
      view.hosts_by_count.erase({left, host});
      left -= count;
      if (left > 0) view.hosts_by_count.emplace(left, host);
    }
  }
}

std::vector<WorkerId> Cluster::TakeGang(const Classes& serving, int world_size) {
  Classes classes;
  for (const int number : serving) {
    const Class& known = classes_[static_cast<size_t>(number)];
    if (!known.is_reserved && known.num_idle > 0) classes.push_back(number);
  }
  std::vector<WorkerId> gang;
  gang.reserve(static_cast<size_t>(world_size));
  for (const int number : classes) {
    if (classes_[static_cast<size_t>(number)].num_idle < world_size) continue;
    const Classes one = {number};
    const auto& hosts = ViewOf(one).hosts_by_count;
    const auto host = hosts.lower_bound({world_size, 0});
    if (host == hosts.end()) continue;
    TakeFrom(host->second, world_size, one, gang);
    return gang;
  }
  // Largest hosts first, and for the rest the smallest host that has it: no choice needs fewer hosts, and what is left
  // over is as whole as it can be.
  const auto& hosts = ViewOf(classes).hosts_by_count;
  while (static_cast<int>(gang.size()) < world_size) {
    const int missing = world_size - static_cast<int>(gang.size());
    auto host = hosts.lower_bound({missing, 0});
    if (host == hosts.end()) host = hosts.lower_bound({hosts.rbegin()->first, 0});
    TakeFrom(host->second, std::min(missing, host->first), classes, gang);
  }
  return gang;
}

void Cluster::Reserve(const Classes& classes) {
  for (const int number : classes) {
    Class& known = classes_[static_cast<size_t>(number)];
    if (!known.is_reserved) num_idle_ -= known.num_idle;
    known.is_reserved = true;
  }
}

}  // namespace normlab::scheduler
