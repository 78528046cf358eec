#include "coordinator/service/run_tally.h"

namespace normlab::service {
namespace {

using engine::RunState;

AttemptOutcome OutcomeOf(RunState state, bool has_failed_more) {
  switch (state) {
    case RunState::kSucceeded:
      return AttemptOutcome::kSucceeded;
    case RunState::kFailed:
      return AttemptOutcome::kFailed;
    case RunState::kCancelled:
      return AttemptOutcome::kCancelled;
    default:
      return has_failed_more ? AttemptOutcome::kLost : AttemptOutcome::kRequeued;
  }
}

}  // namespace

const char* Name(AttemptOutcome outcome) {
  constexpr const char* kNames[] = {"succeeded", "failed", "cancelled", "lost", "requeued"};
  return kNames[static_cast<size_t>(outcome)];
}

void RunTally::Reset(const engine::State& state) {
  seen_.clear();
  all_ = {};
  by_experiment_.clear();
  for (const auto& [id, run] : state.runs) {
    seen_.emplace_hint(seen_.end(), id, Seen{run.state, run.attempt, run.failures});
    ++all_[static_cast<size_t>(run.state)];
    ++by_experiment_[id.experiment][static_cast<size_t>(run.state)];
  }
}

std::vector<AttemptOutcome> RunTally::Update(const engine::State& state, const std::set<RunId>& touched) {
  std::vector<AttemptOutcome> ended;
  for (const RunId id : touched) {
    const engine::Run& run = state.runs.at(id);
    Counts& of_experiment = by_experiment_[id.experiment];
    const auto [seen, is_new] = seen_.try_emplace(id);
    if (!is_new) {
      --all_[static_cast<size_t>(seen->second.state)];
      --of_experiment[static_cast<size_t>(seen->second.state)];
      const bool was_live = engine::IsLive(seen->second.state);
      if (was_live && (!engine::IsLive(run.state) || run.attempt != seen->second.attempt)) {
        ended.push_back(OutcomeOf(run.state, run.failures > seen->second.failures));
      }
    }
    seen->second = {run.state, run.attempt, run.failures};
    ++all_[static_cast<size_t>(run.state)];
    ++of_experiment[static_cast<size_t>(run.state)];
  }
  return ended;
}

const RunTally::Counts& RunTally::OfExperiment(ExperimentId id) const {
  static constexpr Counts kNone{};
  const auto counts = by_experiment_.find(id);
  return counts == by_experiment_.end() ? kNone : counts->second;
}

}  // namespace normlab::service
