#include "coordinator/scheduler/simulation/invariants.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "coordinator/engine/testing/transcript.h"

namespace normlab::simulation {
namespace {

using engine::AttemptRef;
using engine::Run;
using engine::RunState;
using engine::State;
using engine::Worker;

std::string CheckGang(const State& state, const Run& run) {
  if (!engine::IsLive(run.state)) {
    return run.gang.empty() ? "" : fmt::format("{} is {} and has a gang", run.id.ToString(), Name(run.state));
  }
  const int world_size = static_cast<int>(run.gang.size());
  const std::vector<int>& smaller = run.info->smaller_worlds;
  const bool is_allowed =
      world_size == run.info->world_size || std::find(smaller.begin(), smaller.end(), world_size) != smaller.end();
  if (!is_allowed || run.ranks.size() != run.gang.size()) {
    return fmt::format("{} has {} of {} workers", run.id.ToString(), run.gang.size(), run.info->world_size);
  }
  bool lives = false;
  for (int rank = 0; rank < world_size; ++rank) {
    if (run.ranks[rank] == engine::RankState::kEnded) continue;
    lives = true;
    const AttemptRef ref = {run.id, run.attempt, rank};
    const auto worker = state.workers.find(run.gang[rank]);
    if (worker == state.workers.end() || !worker->second.has_lease || worker->second.attempt != ref) {
      return fmt::format("{} is not held by worker {} or has no lease", Text(ref), run.gang[rank].name);
    }
  }
  return lives ? "" : fmt::format("{} is {} but every rank has ended", run.id.ToString(), Name(run.state));
}

/// The indexes are what a rebuild would make of the state.
std::string CheckIndexes(const State& state) {
  State rebuilt = state;
  engine::BuildIndexes(rebuilt, absl::UnixEpoch(), absl::ZeroDuration());
  if (rebuilt.queue != state.queue) return "queue is not the set of queued runs";
  if (rebuilt.lines != state.lines) return "lines are not the queued runs that are not held";
  if (rebuilt.live_by_priority != state.live_by_priority) return "live_by_priority are not the live runs";
  if (rebuilt.owners != state.owners) return "owners do not have what their runs hold";
  if (rebuilt.backoffs != state.backoffs) return "backoffs are not those of the queued runs";
  if (rebuilt.live_runs != state.live_runs) return "live_runs are not the live runs";
  std::set<WorkerId> idle;
  std::set<WorkerId> with_deadline;
  for (const auto& [deadline, id] : state.worker_deadlines) {
    if (!with_deadline.insert(id).second) return fmt::format("worker {} has two deadlines", id.name);
  }
  for (const auto& [id, worker] : state.workers) {
    if (engine::IsIdle(worker)) idle.insert(id);
    if (worker.has_lease && !with_deadline.contains(id)) return fmt::format("worker {} has no deadline", id.name);
    with_deadline.erase(id);
  }
  if (!with_deadline.empty()) return fmt::format("{} deadlines too many", with_deadline.size());
  return idle == state.idle_workers ? "" : "idle_workers are not the idle workers";
}

/// Nobody has more workers than he may, and his count is what his live runs hold.
std::string CheckQuotas(const State& state, const engine::Policy& policy) {
  std::map<std::string, int> held;
  for (const RunId& id : state.live_runs) {
    const Run& run = state.runs.at(id);
    held[run.info->owner] += static_cast<int>(run.gang.size());
  }
  for (const auto& [name, owner] : state.owners) {
    if (owner.num_workers != held[name]) {
      return fmt::format("{} is said to have {} workers and has {}", name, owner.num_workers, held[name]);
    }
    if (policy.workers_per_user_max > 0 && owner.num_workers > policy.workers_per_user_max) {
      return fmt::format("{} has {} workers, more than {}", name, owner.num_workers, policy.workers_per_user_max);
    }
  }
  return "";
}

/// A report that is not of the run's current attempt, from the worker of its rank, leaves the run as it was.
std::string CheckFence(const State& before, const engine::Command& command, const State& after) {
  const auto* report = std::get_if<engine::WorkerReport>(&command);
  if (report == nullptr) return "";
  const Run& old = before.runs.at(report->attempt.run);
  const size_t rank = static_cast<size_t>(report->attempt.rank);
  const bool is_current = engine::IsLive(old.state) && old.attempt == report->attempt.attempt &&
                          rank < old.gang.size() && old.gang[rank] == report->worker;
  if (is_current || after.runs.at(old.id).revision == old.revision) return "";
  return fmt::format("{} of worker {} changed the run in attempt {}", Text(report->attempt), report->worker.name,
                     old.attempt);
}

}  // namespace

std::string Invariants::CheckMoves(const State& before, const engine::Command& command, const State& after) {
  for (const auto& [id, old] : before.runs) {
    const Run& run = after.runs.at(id);
    if (run.attempt < old.attempt || run.attempt > old.attempt + 1) {
      return fmt::format("{} went from attempt {} to {}", id.ToString(), old.attempt, run.attempt);
    }
    const bool is_requeue = std::holds_alternative<engine::RequeueRuns>(command);
    if (engine::IsTerminal(old.state) && run.state != old.state && !is_requeue) {
      return fmt::format("{} left {} by itself", id.ToString(), Name(old.state));
    }
    if (old.outcome == engine::Outcome::kFinished && run.attempt != old.attempt) {
      return fmt::format("{} does work again that was finished", id.ToString());
    }
    if (run.state != old.state && run.revision <= old.revision) {
      return fmt::format("{} moved without a new revision", id.ToString());
    }
  }
  return "";
}

std::string Invariants::CheckMessages(const engine::Changes& changes) {
  for (const engine::Outgoing& message : changes.messages) {
    const auto* start = std::get_if<engine::SendStart>(&message.command);
    if (start == nullptr) continue;
    const auto [known, is_new] = started_on_.emplace(start->attempt, message.worker);
    if (known->second != message.worker) {
      return fmt::format("{} was started on {} and on {}", Text(start->attempt), known->second.name,
                         message.worker.name);
    }
    if (start->attempt.rank > 0 && start->rendezvous.empty()) {
      return fmt::format("{} was started without an address", Text(start->attempt));
    }
  }
  return "";
}

std::string Invariants::Check(const State& before, const engine::Command& command, const State& after,
                              const engine::Changes& changes, const engine::Policy& policy) {
  for (const auto& [id, run] : after.runs) {
    if (std::string broken = CheckGang(after, run); !broken.empty()) return broken;
  }
  if (std::string broken = CheckFence(before, command, after); !broken.empty()) return broken;
  if (std::string broken = CheckMoves(before, command, after); !broken.empty()) return broken;
  if (std::string broken = CheckMessages(changes); !broken.empty()) return broken;
  if (std::string broken = CheckQuotas(after, policy); !broken.empty()) return broken;
  return CheckIndexes(after);
}

}  // namespace normlab::simulation
