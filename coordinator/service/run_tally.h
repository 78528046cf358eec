#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <unordered_map>
#include <vector>

#include "coordinator/engine/state.h"

namespace normlab::service {

/// How an attempt ended, for metrics.
enum class AttemptOutcome { kSucceeded, kFailed, kCancelled, kLost, kRequeued };

/// "succeeded", ...
const char* Name(AttemptOutcome outcome);

/// Runs by state, counted as they change, so that nobody walks all runs to know. Belongs to the engine's thread.
class RunTally {
 public:
  using Counts = std::array<int64_t, 8>;  // By engine::RunState.

  /// Counts everything anew.
  void Reset(const engine::State& state);

  /// Takes in the runs that a tick touched. Returns how the attempts that it ended, ended.
  std::vector<AttemptOutcome> Update(const engine::State& state, const std::set<RunId>& touched);

  const Counts& all() const { return all_; }
  /// All zero for an experiment that is not known.
  const Counts& OfExperiment(ExperimentId id) const;

 private:
  struct Seen {
    engine::RunState state = engine::RunState::kQueued;
    int attempt = 0;
    int failures = 0;
  };

  std::map<RunId, Seen> seen_;
  Counts all_{};
  std::map<ExperimentId, Counts> by_experiment_;
};

}  // namespace normlab::service
