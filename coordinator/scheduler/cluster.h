#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "coordinator/engine/labels.h"
#include "coordinator/engine/state.h"

namespace normlab::scheduler {

/// The workers of one pass. Workers of one build with the same of those labels that queued runs ask for are a class:
/// the same to the scheduler. A label with the worker's own name, which nobody asks for, makes no class of one.
class Cluster {
 public:
  /// Numbers of classes, the plainest first: workers with labels that others ask for are taken last.
  using Classes = std::vector<int>;

  /// `wanted`: what lines of the queue ask for.
  Cluster(const engine::State& state, const std::vector<const engine::Labels*>& wanted);

  /// The classes that serve `wanted`, one list for each build: the ranks of a gang run one and the same program.
  const std::vector<Classes>& Serving(const engine::Labels& wanted);
  /// The class of a worker that may work; -1 for others.
  int ClassOf(const engine::Worker& worker) const;

  /// Workers of these classes that may work, whatever they do now.
  int Capacity(const Classes& classes) const;
  /// Idle ones that are neither taken nor reserved.
  int CountIdle(const Classes& classes) const;
  int num_idle() const { return num_idle_; }

  /// Takes `world_size` idle workers on as few hosts as there are; CountIdle says that there are enough. With as few
  /// hosts, plainer classes give first, and smaller rests of hosts before larger ones.
  std::vector<WorkerId> TakeGang(const Classes& classes, int world_size);

  /// Nobody takes these any more.
  void Reserve(const Classes& classes);

 private:
  using Pairs = std::vector<int>;  // Numbers of label pairs, sorted.
  struct Class {
    std::string_view build;
    Pairs pairs;
    int capacity = 0;
    int num_idle = 0;
    bool is_reserved = false;
  };
  struct Slot {
    int number;  // Of the class.
    std::vector<const engine::Worker*> workers;
    size_t num_taken = 0;
  };
  /// Idle workers of some classes, by host.
  struct View {
    std::vector<bool> has;                         // By class.
    std::vector<int> counts;                       // By host.
    std::set<std::pair<int, int>> hosts_by_count;  // (count, host); hosts without any are left out.
  };

  Pairs Known(const engine::Labels& labels) const;
  void Add(const engine::Worker& worker);
  View& ViewOf(const Classes& classes);
  void TakeFrom(int host, int num_workers, const Classes& classes, std::vector<WorkerId>& gang);

  std::unordered_map<std::string_view, std::vector<std::pair<std::string_view, int>>>
      numbers_;  // Key -> (value, pair).
  int num_pairs_ = 0;
  std::map<std::pair<std::string_view, Pairs>, int> class_numbers_;
  std::vector<Class> classes_;
  std::unordered_map<std::string_view, int> host_numbers_;
  std::vector<std::vector<Slot>> hosts_;
  std::map<Classes, View> views_;
  std::map<Pairs, std::vector<Classes>> serving_;
  int num_idle_ = 0;
};

}  // namespace normlab::scheduler
