#pragma once

#include <absl/time/time.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/engine/state.h"

namespace normlab::scheduler {

/// The whole gang of one run, by rank.
struct Placement {
  RunId run;
  std::vector<WorkerId> gang;
};

/// A run that has to give its workers up.
struct Preemption {
  RunId run;
  RunId beneficiary;
};

struct Decision {
  std::vector<Placement> placements;
  std::vector<Preemption> preemptions;
};

/// Gives gangs, all or nothing, to waiting runs in the order of QueueOrder. A run that cannot be placed now but whose
/// gang exists reserves the idle workers that serve it, so that those behind it cannot starve it (docs/scheduling.md
/// has the argument); it also takes the workers of running runs of lower priority if these give enough. A run that no
/// set of known workers could ever serve reserves nothing; if it may run on fewer workers, it asks for the largest gang
/// that exists. Nobody gets more workers than Policy::workers_per_user_max. A gang is of one build and packed on as few
/// hosts as its idle workers allow. Pure: the same state, policy and time always give the same decision.
Decision Schedule(const engine::State& state, const engine::Policy& policy, absl::Time now);

/// Why a queued run waits, in words with numbers: hold, backoff, quota, workers that are missing or busy and until
/// when, its place in the queue. The reason of a run that does not wait. Looks at every worker: for one run, not for
/// lists.
std::string ExplainWait(const engine::State& state, const engine::Policy& policy, const engine::Run& run,
                        absl::Time now);

/// Why a queued run waits, as one of few words.
enum class WaitReason {
  kHeld,           // Until it is released.
  kBackoff,        // After a failure.
  kNoWorker,       // No known worker has its labels.
  kTooFewWorkers,  // Fewer are known than the smallest gang that will do.
  kQuota,          // Its user has as many workers as a user may have.
  kWorkersBusy,    // Workers enough are known, and not enough of them are free for it.
};
inline constexpr int kNumWaitReasons = 6;

/// "held", "backoff", "no_worker", "too_few_workers", "quota", "workers_busy".
const char* Name(WaitReason reason);

/// Queued runs by WaitReason. Looks at each line of runs once, and at every worker once for each different set of
/// labels.
std::array<int64_t, kNumWaitReasons> CountWaits(const engine::State& state, const engine::Policy& policy,
                                                absl::Time now);

struct Waiting {
  RunId run;
  int64_t position = 0;  // 1 for the first; 0 for a run that is held or in backoff.
  std::string reason;
};

/// `limit` waiting runs behind the first `offset`, in the order in which they would be placed, then those in backoff
/// and held ones. One pass over the workers for each different set of labels that the runs ask for.
std::vector<Waiting> ListWaiting(const engine::State& state, const engine::Policy& policy, absl::Time now,
                                 size_t offset, size_t limit);

}  // namespace normlab::scheduler
