#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/status.h"
#include "coordinator/engine/attempts.h"
#include "coordinator/engine/handlers.h"
#include "coordinator/engine/indexes.h"
#include "coordinator/engine/labels.h"
#include "coordinator/engine/selection.h"

// What users do to runs: cancel, requeue, hold, release, priority.
namespace normlab::engine {
namespace {

/// Analyses of one run, each of another step.
constexpr size_t kAnalysesMax = 100;

std::string CancelOne(Transaction& tx, Run& run, const std::string& actor, const std::string& reason) {
  switch (run.state) {
    case RunState::kQueued:
      tx.Move(run, RunEvent::kCancelAsked, actor, reason, Cause::kUser);
      return "cancelled while it waited";
    case RunState::kStarting:
    case RunState::kRunning: {
      const int asked = AskToStop(tx, run, StopIntent::kCancel, actor, reason, Cause::kUser);
      return fmt::format("asked {} of {} ranks to checkpoint and end within {}", asked, run.gang.size(),
                         absl::FormatDuration(tx.options.stop_grace));
    }
    case RunState::kStopping:
      if (run.stop_intent == StopIntent::kCancel) return "was already being cancelled";
      run.stop_intent = StopIntent::kCancel;
      run.reason = reason;
      run.cause = Cause::kUser;
      tx.Touch(run);
      tx.Note(run, actor, reason, Cause::kUser);
      return "was stopping to wait again; now it will be cancelled";
    case RunState::kSucceeded:
    case RunState::kFailed:
    case RunState::kCancelled:
      break;
  }
  return fmt::format("had already ended as {}; left alone", Name(run.state));
}

std::string RequeueOne(Transaction& tx, Run& run, const RequeueRuns& command) {
  const std::string actor = UserActor(command.actor);
  if (command.priority) run.priority = *command.priority;
  if (command.from_scratch) {
    run.resume_from_attempt = NextAttempt(tx.state, run);
    run.progress = Progress();
  }
  run.resume_checkpoint = command.checkpoint;
  // What the named checkpoint is made into carries the next attempt's number: newer ones of earlier attempts are void.
  if (!command.checkpoint.empty()) run.resume_from_attempt = NextAttempt(tx.state, run);
  run.failures = 0;
  run.outcome = Outcome::kNone;
  run.outcome_detail.clear();
  run.queued_at = tx.now;
  run.requeue_request_id = command.request_id;
  const std::string from =
      !command.checkpoint.empty() ? "checkpoint " + command.checkpoint
      : run.progress.checkpoint
          ? fmt::format("checkpoint {} (step {})", run.progress.checkpoint->name, run.progress.checkpoint->step)
          : "the beginning";
  const std::string words = command.reason.empty() ? "" : ": " + command.reason;
  tx.Move(run, RunEvent::kRequeueAsked, actor, fmt::format("requeued by {} from {}{}", actor, from, words),
          Cause::kUser);
  return fmt::format("queued again with priority {} from {}", run.priority, from);
}

/// What the first call with this request id did, for the client that lost its answer.
Reply AnswerAgain(const std::vector<Run*>& runs, const std::string& request_id) {
  RunsChanged reply;
  for (const Run* run : runs) {
    if (run->requeue_request_id != request_id) continue;
    reply.changes.push_back({run->id, run->state, run->state,
                             fmt::format("was requeued by an earlier call with request id {}", request_id)});
  }
  return reply;
}

absl::Status CheckAllTerminal(const std::vector<Run*>& runs) {
  std::vector<std::string> others;
  for (const Run* run : runs) {
    if (!IsTerminal(run->state)) others.push_back(fmt::format("{} is {}", run->id.ToString(), Name(run->state)));
  }
  if (others.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{} of {} chosen runs have not ended: {}; nothing was requeued, cancel them first or choose only runs "
      "that are SUCCEEDED, FAILED or CANCELLED",
      others.size(), runs.size(), NamesText(others)));
}

std::string UpdateOne(Transaction& tx, Run& run, const UpdateRuns& command) {
  if (run.state != RunState::kQueued) return fmt::format("is {}, not QUEUED; left alone", Name(run.state));
  const bool is_held = command.held.value_or(run.is_held);
  const int priority = command.priority.value_or(run.priority);
  if (is_held == run.is_held && priority == run.priority) {
    return fmt::format("was already {} with priority {}", is_held ? "held" : "waiting", priority);
  }
  std::vector<std::string> parts;
  if (is_held != run.is_held) parts.push_back(is_held ? "held" : "released");
  if (priority != run.priority) parts.push_back(fmt::format("priority {} instead of {}", priority, run.priority));
  LeaveQueue(tx.state, run);
  run.is_held = is_held;
  run.priority = priority;
  EnterQueue(tx.state, run);
  const std::string actor = UserActor(command.actor);
  const std::string done = fmt::format("{}", fmt::join(parts, ", "));
  run.reason = fmt::format("{} by {}{}", done, actor, command.reason.empty() ? "" : ": " + command.reason);
  run.cause = Cause::kUser;
  tx.Touch(run);
  tx.Note(run, actor, run.reason, Cause::kUser);
  return done;
}

/// The checkpoint's steps must be among those that the run's history holds.
absl::Status CheckAnalysis(const Run& run, const RecordAnalysis& command) {
  const Progress& progress = run.progress;
  if (command.step > progress.step) {
    return absl::FailedPreconditionError(fmt::format(
        "{} has done {} steps, the analysis is of step {}: what was analyzed is no checkpoint of this run, or of one "
        "that was requeued from an earlier step since",
        run.id.ToString(), progress.step, command.step));
  }
  if (command.attempt > run.attempt || command.attempt < 1) {
    return absl::FailedPreconditionError(fmt::format("{} has had {} attempts, the analysis is of one of attempt {}",
                                                     run.id.ToString(), run.attempt, command.attempt));
  }
  if (progress.analysis_steps.size() >= kAnalysesMax && !progress.analysis_steps.contains(command.step)) {
    return absl::ResourceExhaustedError(
        fmt::format("{} has analyses of {} steps, at most {} are kept; analyze a step again to replace one",
                    run.id.ToString(), progress.analysis_steps.size(), kAnalysesMax));
  }
  return absl::OkStatus();
}

absl::Status CheckQuotas(const Transaction& tx, const std::vector<Run*>& runs) {
  std::map<std::string, size_t> num_more;
  for (const Run* run : runs) ++num_more[run->info->owner];
  for (const auto& [owner, count] : num_more) NORMLAB_RETURN_IF_ERROR(CheckQueueQuota(tx, owner, count));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Reply> Handle(Transaction& tx, const CancelRuns& command) {
  NORMLAB_ASSIGN_OR_RETURN(std::vector<Run*> runs, FindAnywhere(tx.state, command.selector));
  const size_t seen = runs.size();
  std::erase_if(runs, [&](const Run* run) { return !MatchesStates(command.selector, *run); });
  if (runs.empty()) return NothingChosen(command.selector, seen);
  const std::string actor = UserActor(command.actor);
  const std::string words = command.reason.empty() ? "" : ": " + command.reason;
  const std::string reason = fmt::format("cancelled by {}{}", actor, words);
  RunsChanged reply;
  reply.changes.reserve(runs.size());
  for (Run* run : runs) {
    const RunState before = run->state;
    std::string note = CancelOne(tx, *run, actor, reason);
    reply.changes.push_back({run->id, before, run->state, std::move(note)});
  }
  return reply;
}

absl::StatusOr<Reply> Handle(Transaction& tx, const RequeueRuns& command) {
  NORMLAB_ASSIGN_OR_RETURN(std::vector<Run*> runs, FindAnywhere(tx.state, command.selector));
  const size_t seen = runs.size();
  // The first call moved the runs, so that a repeated one would not find them by state again.
  const bool is_repeated = !command.request_id.empty() && std::any_of(runs.begin(), runs.end(), [&](const Run* run) {
    return run->requeue_request_id == command.request_id;
  });
  if (is_repeated) return AnswerAgain(runs, command.request_id);
  std::erase_if(runs, [&](const Run* run) { return !MatchesStates(command.selector, *run); });
  if (runs.empty()) return NothingChosen(command.selector, seen);
  NORMLAB_RETURN_IF_ERROR(CheckAllTerminal(runs));
  NORMLAB_RETURN_IF_ERROR(CheckQuotas(tx, runs));
  if (command.from_scratch && !command.checkpoint.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("from_scratch ignores checkpoints, and {} is named: choose one of them", command.checkpoint));
  }
  RunsChanged reply;
  reply.changes.reserve(runs.size());
  for (Run* run : runs) {
    const RunState before = run->state;
    std::string note = RequeueOne(tx, *run, command);
    reply.changes.push_back({run->id, before, run->state, std::move(note)});
  }
  return reply;
}

absl::StatusOr<Reply> Handle(Transaction& tx, const UpdateRuns& command) {
  NORMLAB_ASSIGN_OR_RETURN(std::vector<Run*> runs, FindAnywhere(tx.state, command.selector));
  const size_t seen = runs.size();
  std::erase_if(runs, [&](const Run* run) { return !MatchesStates(command.selector, *run); });
  if (runs.empty()) return NothingChosen(command.selector, seen);
  RunsChanged reply;
  reply.changes.reserve(runs.size());
  for (Run* run : runs) {
    std::string note = UpdateOne(tx, *run, command);
    reply.changes.push_back({run->id, run->state, run->state, std::move(note)});
  }
  return reply;
}

absl::StatusOr<Reply> Handle(Transaction& tx, const RecordAnalysis& command) {
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<Run*> runs, FindAnywhere(tx.state, command.selector));
  Run& run = *runs.front();
  NORMLAB_RETURN_IF_ERROR(CheckAnalysis(run, command));
  const bool replaced = !run.progress.analysis_steps.insert(command.step).second;
  tx.changes.history.push_back({.run = run.id,
                                .step = command.step,
                                .kind = HistoryKind::kAnalysis,
                                .attempt = command.attempt,
                                .time = tx.now,
                                .payload = command.payload,
                                .actor = UserActor(command.actor)});
  tx.Touch(run);
  return AnalysisRecorded{.replaced = replaced};
}

}  // namespace normlab::engine
