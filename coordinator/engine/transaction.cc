#include "coordinator/engine/transaction.h"

#include <absl/strings/match.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "coordinator/engine/indexes.h"

namespace normlab::engine {

void Transaction::Move(Run& run, RunEvent event, const std::string& actor, const std::string& reason, Cause cause) {
  const RunState before = run.state;
  const std::optional<RunState> after = Next(before, event);
  if (!after) {
    fmt::print(stderr, "bug: run {} is {} and refuses event {} ({})\n", run.id.ToString(), Name(before),
               static_cast<int>(event), reason);
    std::abort();
  }
  if (before == RunState::kQueued) {
    LeaveQueue(state, run);
    run.not_before.reset();
    run.is_held = false;
  }
  if (IsLive(before) && !IsLive(*after)) {
    CountUsage(run.info->owner);
    LeaveLive(state, run);
    run.gang.clear();
    run.ranks.clear();
    run.rendezvous.clear();
    run.stop_intent = StopIntent::kNone;
  }
  run.state = *after;
  run.reason = reason;
  if (cause != Cause::kNone) run.cause = cause;
  run.ended_at.reset();
  if (IsTerminal(*after)) run.ended_at = now;
  if (IsLive(*after) && !IsLive(before)) {
    CountUsage(run.info->owner);
    EnterLive(state, run);
  }
  if (*after == RunState::kQueued) {
    run.started_at.reset();
    EnterQueue(state, run);
  }
  Touch(run);
  Note(run, actor, reason, cause);
}

void Transaction::Note(const Run& run, const std::string& actor, const std::string& reason, Cause cause) {
  changes.events.push_back({.run = run.id,
                            .time = now,
                            .actor = actor,
                            .state = run.state,
                            .attempt = run.attempt,
                            .reason = reason,
                            .cause = cause});
}

void Transaction::CountUsage(const std::string& name) {
  Owner& owner = state.owners[name];
  owner.worker_seconds = UsageAt(owner, now, options.policy.usage_half_life);
  owner.as_of = now;
  changes.owners.insert(name);
}

void Transaction::Touch(Run& run) {
  run.revision = TakeRevision();
  changes.runs.insert(run.id);
}

int64_t Transaction::TakeRevision() {
  if (!has_revision_) ++state.revision;
  has_revision_ = true;
  return state.revision;
}

void Transaction::Send(const WorkerId& worker, WorkerCommand command) {
  const auto found = state.workers.find(worker);
  // A worker that has not come back since the coordinator's restart has no incarnation that could be addressed.
  if (found == state.workers.end() || found->second.incarnation.empty()) return;
  changes.messages.push_back({worker, found->second.incarnation, std::move(command)});
}

std::string UserActor(const std::string& name) {
  if (name.empty()) return "user:unknown";
  return absl::StartsWith(name, "user:") ? name : "user:" + name;
}

std::string WorkerActor(const WorkerId& worker) { return "worker:" + worker.name; }

}  // namespace normlab::engine
