#pragma once

#include <absl/time/time.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "coordinator/engine/state.h"

namespace normlab::scheduler {

/// The whole gang of one run, by rank.
struct Placement {
  RunId run;
  std::vector<WorkerId> gang;
};

/// Gives gangs, all or nothing, to waiting runs in queue order (priority, age, id). A run that cannot be placed now but
/// whose gang exists reserves the idle workers that match it, so that smaller runs behind it cannot starve it; a run
/// that no set of known workers could ever serve reserves nothing. A gang is packed on as few hosts as its idle workers
/// allow; workers with labels that other queued runs ask for are taken last. Pure: the same state and time always give
/// the same placements.
std::vector<Placement> PlaceGangs(const engine::State& state, absl::Time now);

/// Why a queued run waits, in words with numbers: backoff, workers that are missing or busy, runs ahead of it. The
/// reason of a run that does not wait. Looks at every worker: for one run, not for lists.
std::string ExplainWait(const engine::State& state, const engine::Run& run, absl::Time now);

}  // namespace normlab::scheduler
