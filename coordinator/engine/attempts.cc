#include "coordinator/engine/attempts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "coordinator/engine/indexes.h"

namespace normlab::engine {
namespace {

bool AllEnded(const Run& run) {
  return std::all_of(run.ranks.begin(), run.ranks.end(), [](RankState rank) { return rank == RankState::kEnded; });
}

/// Sends StopAttempt to every rank that may have a process; the others end here. Returns how many were sent.
int StopRanks(Transaction& tx, Run& run, absl::Duration grace, const std::string& reason) {
  int num_sent = 0;
  for (int rank = 0; rank < static_cast<int>(run.ranks.size()); ++rank) {
    const AttemptRef ref = {run.id, run.attempt, rank};
    if (run.ranks[rank] == RankState::kHeld) {
      run.ranks[rank] = RankState::kEnded;
      Release(tx, run.gang[rank], ref);
    } else if (run.ranks[rank] != RankState::kEnded) {
      tx.Send(run.gang[rank], SendStop{.attempt = ref, .grace = grace, .reason = reason});
      ++num_sent;
    }
  }
  return num_sent;
}

/// Every rank has ended: says what that makes of the run.
void Conclude(Transaction& tx, Run& run, const RankEnd& end) {
  const std::string& actor = end.actor;
  if (run.outcome == Outcome::kFinished) {
    const std::string reason =
        run.progress.diverged
            ? fmt::format("diverged: the loss became non-finite at step {} of {}", run.progress.step, run.info->steps)
            : fmt::format("finished {} steps in attempt {}", run.progress.step, run.attempt);
    tx.Move(run, RunEvent::kFinished, actor, reason, Cause::kFinished);
  } else if (run.state != RunState::kStopping) {
    LoseAttempt(tx, run, end.cause, actor, end.words);
  } else {
    const bool is_cancel = run.stop_intent == StopIntent::kCancel;
    if (!is_cancel && run.info->on_preemption == RequeuePolicy::kBack) run.queued_at = tx.now;
    tx.Move(run, is_cancel ? RunEvent::kStoppedToCancel : RunEvent::kStoppedToRequeue, actor,
            fmt::format("{}; attempt {} ended after step {}", run.reason, run.attempt, run.progress.step), run.cause);
  }
}

}  // namespace

absl::Duration Backoff(const Options& options, int failures) {
  return std::min(options.backoff_max, options.backoff_first * std::ldexp(1.0, failures - 1));
}

Run* FindCurrent(State& state, const WorkerId& worker, const AttemptRef& ref) {
  const auto found = state.runs.find(ref.run);
  if (found == state.runs.end()) return nullptr;
  Run& run = found->second;
  const bool is_current = IsLive(run.state) && run.attempt == ref.attempt && ref.rank >= 0 &&
                          ref.rank < static_cast<int>(run.gang.size()) && run.gang[ref.rank] == worker &&
                          run.ranks[ref.rank] != RankState::kEnded;
  return is_current ? &run : nullptr;
}

void Release(Transaction& tx, const WorkerId& id, const AttemptRef& ref) {
  const auto found = tx.state.workers.find(id);
  if (found == tx.state.workers.end() || found->second.attempt != ref) return;
  found->second.attempt.reset();
  found->second.exit_due.reset();
  IndexWorker(tx.state, found->second);
}

void StartRank(Transaction& tx, Run& run, int rank) {
  run.ranks[rank] = RankState::kSent;
  tx.Send(run.gang[rank], SendStart{.attempt = {run.id, run.attempt, rank},
                                    .world_size = static_cast<int>(run.gang.size()),
                                    .spec = run.info->spec,
                                    .resume_from_attempt = run.resume_from_attempt,
                                    .rendezvous = rank == 0 ? std::string() : run.rendezvous,
                                    .resume_checkpoint = run.resume_checkpoint});
}

int AskToStop(Transaction& tx, Run& run, StopIntent intent, const std::string& actor, const std::string& reason,
              Cause cause) {
  run.stop_intent = intent;
  tx.Move(run, RunEvent::kStopAsked, actor, reason, cause);
  return StopRanks(tx, run, tx.options.stop_grace, reason);
}

bool IsEnding(const Run& run) {
  return run.state == RunState::kStopping ||
         (run.outcome == Outcome::kFinished && !run.ranks.empty() && run.ranks[0] == RankState::kEnded);
}

void EndRank(Transaction& tx, Run& run, int rank, const RankEnd& end) {
  run.ranks[rank] = RankState::kEnded;
  tx.Touch(run);
  // The work is done; a rank that hangs on its way out must not keep the run from its end.
  if (run.outcome == Outcome::kFinished && rank == 0) {
    StopRanks(tx, run, tx.options.stop_grace, "rank 0 has finished");
  }
  if (AllEnded(run)) {
    Conclude(tx, run, end);
    return;
  }
  if (run.outcome == Outcome::kFinished || run.state == RunState::kStopping) return;
  // A clean exit comes after the end of the work: rank 0's word of it may still be on its way, on another stream.
  if (rank != 0 && end.is_clean) return;
  LoseAttempt(tx, run, end.cause, end.actor, end.words);
}

void LoseAttempt(Transaction& tx, Run& run, Cause cause, const std::string& actor, const std::string& words) {
  StopRanks(tx, run, absl::ZeroDuration(), words);
  const int retries_max = run.info->retries_max;
  ++run.failures;
  run.outcome = Outcome::kFailed;
  run.outcome_detail = words;
  if (run.failures > retries_max) {
    tx.Move(run, RunEvent::kGaveUp, actor,
            fmt::format("gave up after failure {} with retries_max {}: {}", run.failures, retries_max, words), cause);
    return;
  }
  if (run.info->on_loss == RequeuePolicy::kNever) {
    tx.Move(run, RunEvent::kGaveUp, actor, fmt::format("not tried again, as resources.on_loss is never: {}", words),
            cause);
    return;
  }
  if (run.info->on_loss == RequeuePolicy::kBack) run.queued_at = tx.now;
  const absl::Duration backoff = Backoff(tx.options, run.failures);
  run.not_before = tx.now + backoff;
  tx.Move(run, RunEvent::kAttemptLost, actor,
          fmt::format("attempt {} was lost (failure {} of {}, next try after {}): {}", run.attempt, run.failures,
                      retries_max, absl::FormatDuration(backoff), words),
          cause);
}

void FailForGood(Transaction& tx, Run& run, const std::string& actor, const std::string& message) {
  StopRanks(tx, run, absl::ZeroDuration(), message);
  ++run.failures;
  run.outcome = Outcome::kFailedForGood;
  run.outcome_detail = message;
  tx.Move(run, RunEvent::kGaveUp, actor, message, Cause::kTrainerFailed);
}

}  // namespace normlab::engine
