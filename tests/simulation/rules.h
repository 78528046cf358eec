#pragma once

#include <absl/time/time.h>

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "coordinator/engine/effect.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/state.h"
#include "tests/simulation/observer.h"
#include "tests/simulation/trainers.h"

namespace normlab::simulation {

/// What must hold at every moment, whatever happened before. Sees the coordinator's state after each tick, the trainers
/// as they are, and what was said to whom.
class Rules {
 public:
  /// Whether a client's call that is under way asks for the run again.
  using MayRequeue = std::function<bool(const RunId&)>;

  Rules(Observer& observer, const Fabric& fabric, const engine::Policy& policy, MayRequeue may_requeue)
      : observer_(observer), fabric_(fabric), policy_(policy), may_requeue_(std::move(may_requeue)) {}

  /// A tick was made; it counts once it is committed.
  void OnTick(const engine::State& state, const engine::Changes& changes, absl::Time now);
  void Commit() { undo_.clear(); }
  /// The last tick never happened.
  void RollBack();
  /// Whether the last tick happened is not known.
  void ForgetUnsure() { is_unsure_ = true; }

  /// What a new process finds is what was committed.
  void CheckLoaded(const engine::State& loaded);

  /// A worker's agent was told that everything up to this report is durable.
  void OnFinishAcknowledged(const RunId& run, int attempt);
  /// A trainer begins; `agent` is "WORKER-INCARNATION".
  void OnTrainerStart(const agent::AttemptKey& key, const std::string& agent);

  /// The agent's process is gone.
  void OnAgentEnd(const std::string& agent) { ended_agents_.insert(agent); }

  /// A trainer that has a lease trains a step.
  void OnWork(const agent::AttemptKey& key, const std::string& worker);

  const std::map<RunId, engine::Run>& runs() const { return shadow_; }
  /// Every run is terminal and no worker is occupied.
  bool IsSettled() const;
  /// How everything stands, for people.
  std::string Text() const;

 private:
  using MaybeRun = std::optional<engine::Run>;

  bool IsRequeued(const engine::Run& before, const engine::Run& after) const;
  bool AllLive(const engine::Run& run) const;
  void CheckMove(const engine::State& state, const engine::Run* before, const engine::Run& after);
  void CheckProgress(const engine::Run& run);
  void CheckGang(const engine::State& state, const engine::Run& run);
  void CheckWorkers(const engine::State& state);
  void CheckIndexes(const engine::State& state);
  void CheckMessages(const engine::Changes& changes);
  void CheckHistory(const engine::Changes& changes);

  Observer& observer_;
  const Fabric& fabric_;
  const engine::Policy policy_;
  const MayRequeue may_requeue_;
  std::map<RunId, engine::Run> shadow_;  // As of the last tick.
  std::map<RunId, MaybeRun> undo_;
  bool is_unsure_ = false;
  int num_ticks_ = 0;
  int num_occupied_ = 0;  // Workers, after the last tick.
  int64_t revision_ = 0;
  std::optional<std::pair<absl::Time, std::string>> late_;  // What was due after the last tick, and who for.
  std::map<agent::AttemptKey, std::string> started_on_;
  std::set<std::string> ended_agents_;
  std::map<RunId, int> highest_attempt_;
  std::set<std::pair<RunId, int>> finished_;  // Acknowledged.
  std::map<RunId, int> requeued_after_;       // The attempt after which it was asked for again last.
  // Attempts whose rank 0 was on a worker that lost its lease: its words are void, also while the gang still ends.
  std::set<std::pair<RunId, int>> lost_leaders_;
};

}  // namespace normlab::simulation
