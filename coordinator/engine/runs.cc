#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "common/status.h"
#include "coordinator/engine/attempts.h"
#include "coordinator/engine/handlers.h"
#include "coordinator/engine/labels.h"

// What users do to runs: cancel and requeue.
namespace normlab::engine {
namespace {

bool IsEmpty(const Selector& selector) {
  return selector.runs.empty() && !selector.experiment && selector.labels.empty() && selector.states.empty();
}

bool MatchesStates(const Selector& selector, const Run& run) {
  return selector.states.empty() ||
         std::find(selector.states.begin(), selector.states.end(), run.state) != selector.states.end();
}

/// All but the states.
bool MatchesPlace(const Selector& selector, const Run& run) {
  if (selector.experiment && run.id.experiment != *selector.experiment) return false;
  if (!HasLabels(run.info->labels, selector.labels)) return false;
  return selector.runs.empty() || std::find(selector.runs.begin(), selector.runs.end(), run.id) != selector.runs.end();
}

absl::StatusOr<std::vector<Run*>> FindNamed(State& state, const Selector& selector) {
  std::vector<RunId> ids = selector.runs;
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  Selector others = selector;
  others.runs.clear();
  std::vector<Run*> chosen;
  std::vector<std::string> unknown;
  for (const RunId& id : ids) {
    const auto found = state.runs.find(id);
    if (found == state.runs.end()) {
      unknown.push_back(id.ToString());
    } else if (MatchesPlace(others, found->second)) {
      chosen.push_back(&found->second);
    }
  }
  if (!unknown.empty()) {
    return absl::NotFoundError(fmt::format("{} of {} runs do not exist: {}; nothing was done", unknown.size(),
                                           ids.size(), NamesText(unknown)));
  }
  return chosen;
}

/// Runs of one experiment share its labels, so that a look at the first says all of them.
std::vector<Run*> FindByExperiment(State& state, const Selector& selector) {
  std::vector<Run*> chosen;
  auto next = selector.experiment ? state.runs.lower_bound({*selector.experiment, 0}) : state.runs.begin();
  while (next != state.runs.end()) {
    const ExperimentId experiment = next->first.experiment;
    if (selector.experiment && experiment != *selector.experiment) break;
    if (!HasLabels(next->second.info->labels, selector.labels)) {
      next = state.runs.upper_bound({experiment, std::numeric_limits<int32_t>::max()});
      continue;
    }
    for (; next != state.runs.end() && next->first.experiment == experiment; ++next) chosen.push_back(&next->second);
  }
  return chosen;
}

std::string SelectorText(const Selector& selector) {
  std::vector<std::string> parts;
  if (!selector.runs.empty()) parts.push_back(fmt::format("one of {} named runs", selector.runs.size()));
  if (selector.experiment) parts.push_back("experiment " + selector.experiment->ToString());
  if (!selector.labels.empty()) parts.push_back("labels " + LabelsText(selector.labels));
  if (!selector.states.empty()) {
    std::string states;
    for (const RunState state : selector.states) states += fmt::format("{}{}", states.empty() ? "" : "|", Name(state));
    parts.push_back("state " + states);
  }
  return fmt::format("{}", fmt::join(parts, " and "));
}

/// The chosen runs whatever their state, in order of id.
absl::StatusOr<std::vector<Run*>> FindAnywhere(State& state, const Selector& selector) {
  if (IsEmpty(selector)) {
    return absl::NotFoundError("the selector is empty and chooses nothing: name runs, an experiment, labels or states");
  }
  if (!selector.runs.empty()) return FindNamed(state, selector);
  if (selector.experiment && !state.experiments.contains(*selector.experiment)) {
    return absl::NotFoundError(fmt::format("there is no experiment {}", selector.experiment->ToString()));
  }
  return FindByExperiment(state, selector);
}

absl::Status NothingChosen(const Selector& selector, size_t seen) {
  return absl::NotFoundError(
      fmt::format("no run is chosen by {} ({} runs match but for their state)", SelectorText(selector), seen));
}

std::string CancelOne(Transaction& tx, Run& run, const std::string& actor, const std::string& reason) {
  switch (run.state) {
    case RunState::kQueued:
      tx.Move(run, RunEvent::kCancelAsked, actor, reason);
      return "cancelled while it waited";
    case RunState::kStarting:
    case RunState::kRunning: {
      const int asked = AskToStop(tx, run, StopIntent::kCancel, actor, reason);
      return fmt::format("asked {} of {} ranks to checkpoint and end within {}", asked, run.info->world_size,
                         absl::FormatDuration(tx.options.stop_grace));
    }
    case RunState::kStopping:
      if (run.stop_intent == StopIntent::kCancel) return "was already being cancelled";
      run.stop_intent = StopIntent::kCancel;
      run.reason = reason;
      tx.Touch(run);
      tx.Note(run, actor, reason);
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
    run.resume_from_attempt = run.attempt + 1;
    run.progress = Progress();
  }
  run.failures = 0;
  run.outcome = Outcome::kNone;
  run.outcome_detail.clear();
  run.queued_at = tx.now;
  run.requeue_request_id = command.request_id;
  const std::string from =
      run.progress.checkpoint
          ? fmt::format("checkpoint {} (step {})", run.progress.checkpoint->name, run.progress.checkpoint->step)
          : "the beginning";
  const std::string words = command.reason.empty() ? "" : ": " + command.reason;
  tx.Move(run, RunEvent::kRequeueAsked, actor, fmt::format("requeued by {} from {}{}", actor, from, words));
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

}  // namespace

bool Matches(const Selector& selector, const Run& run) {
  return MatchesPlace(selector, run) && MatchesStates(selector, run);
}

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
  RunsChanged reply;
  reply.changes.reserve(runs.size());
  for (Run* run : runs) {
    const RunState before = run->state;
    std::string note = RequeueOne(tx, *run, command);
    reply.changes.push_back({run->id, before, run->state, std::move(note)});
  }
  return reply;
}

}  // namespace normlab::engine
