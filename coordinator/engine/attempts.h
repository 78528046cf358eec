#pragma once

#include <string>

#include "coordinator/engine/transaction.h"

// How an attempt begins, stops and ends.
namespace normlab::engine {

/// The run if `ref` is a rank of its current attempt that lives on `worker`, else null: whatever it says is stale.
Run* FindCurrent(State& state, const WorkerId& worker, const AttemptRef& ref);

/// Frees `worker` if it is occupied by exactly `ref`.
void Release(Transaction& tx, const WorkerId& worker, const AttemptRef& ref);

/// Sends StartAttempt to the worker of `rank`.
void StartRank(Transaction& tx, Run& run, int rank);

/// Asks every rank of a STARTING or RUNNING run to checkpoint and end. Ranks to which nothing was sent end at once.
/// Returns how many were asked.
int AskToStop(Transaction& tx, Run& run, StopIntent intent, const std::string& actor, const std::string& reason,
              Cause cause);

/// Whether nothing is left for the ranks to do but to end.
bool IsEnding(const Run& run);

struct RankEnd {
  bool is_clean = false;  // Exit code 0, which a trainer has only after it finished or stopped.
  Cause cause = Cause::kNone;
  std::string actor;
  std::string words;  // "rank 1 on w2 was ended by signal 9".
};

/// The process of `rank` is gone for certain, or its worker is. Its worker must have been released before.
void EndRank(Transaction& tx, Run& run, int rank, const RankEnd& end);

/// Gives up a STARTING or RUNNING attempt: its ranks are killed, the run is tried again after a backoff, or FAILED when
/// its retries are spent or it is not to be tried again.
void LoseAttempt(Transaction& tx, Run& run, Cause cause, const std::string& actor, const std::string& words);

/// As LoseAttempt, but FAILED in any case, with `message` as the reason: another try would fail the same way.
void FailForGood(Transaction& tx, Run& run, const std::string& actor, const std::string& message);

}  // namespace normlab::engine
