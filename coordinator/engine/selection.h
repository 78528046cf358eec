#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <string>
#include <vector>

#include "coordinator/engine/command.h"
#include "coordinator/engine/transaction.h"

// Which runs a user's command is about.
namespace normlab::engine {

/// The runs that `selector` chooses whatever their state, in order of id. NOT_FOUND if it is empty, or names a run or
/// an experiment that does not exist.
absl::StatusOr<std::vector<Run*>> FindAnywhere(State& state, const Selector& selector);

/// Whether the run is in one of the selector's states.
bool MatchesStates(const Selector& selector, const Run& run);

/// NOT_FOUND, in words; `seen` runs are chosen but for their state.
absl::Status NothingChosen(const Selector& selector, size_t seen);

/// RESOURCE_EXHAUSTED if `num_more` queued runs would pass the owner's quota.
absl::Status CheckQueueQuota(const Transaction& tx, const std::string& owner, size_t num_more);

}  // namespace normlab::engine
