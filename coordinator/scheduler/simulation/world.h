#pragma once

#include <absl/time/time.h>

#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/engine/engine.h"
#include "coordinator/scheduler/scheduler.h"
#include "coordinator/scheduler/simulation/agent.h"
#include "coordinator/scheduler/simulation/invariants.h"

namespace normlab::simulation {

/// A coordinator, its workers, its users and the network between them, in rounds of half a second. All that goes wrong
/// comes from the seed.
class World {
 public:
  explicit World(uint64_t seed);

  /// One round with crashes, cut streams, frozen hosts, drains, cancels, requeues and restarts of the coordinator.
  void RoundWithFaults();

  /// One round in which nothing goes wrong.
  void CalmRound();

  /// Ends what faults have left behind: drained workers come back, cordons are lifted.
  void Mend();

  /// Every run is terminal and no worker is occupied.
  bool IsSettled() const;

  /// The first rule that was broken, or empty.
  const std::string& broken() const { return broken_; }

  /// From which state to which a run has moved.
  const std::set<std::pair<engine::RunState, engine::RunState>>& moves() const { return moves_; }

  /// Runs and workers, for a failure's message.
  std::string Text() const;

 private:
  bool Apply(const engine::Command& command);
  void Route(const engine::Changes& changes);
  void Submit(int num_runs);
  void Exchange(Agent& agent);
  void CutStream(Agent& agent);
  void TroubleAgent(Agent& agent);
  void TroubleCoordinator();
  void Meddle();
  void DeliverLate();
  void Round(double crash_probability);
  void Place();

  Dice dice_;
  engine::Options options_;
  engine::State state_;
  absl::Time now_;
  Fabric fabric_;
  std::vector<Agent> agents_;
  std::map<WorkerId, std::deque<engine::WorkerCommand>> downlinks_;
  std::deque<engine::Command> late_;  // Of streams that are gone.
  Invariants invariants_;
  std::string broken_;
  std::set<std::pair<engine::RunState, engine::RunState>> moves_;
  int num_requests_ = 0;
  bool is_crashing_ = false;  // Commits are made, but nothing is sent any more.
};

}  // namespace normlab::simulation
