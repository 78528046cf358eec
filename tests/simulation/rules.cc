#include "tests/simulation/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "coordinator/engine/testing/transcript.h"

namespace normlab::simulation {
namespace {

using engine::AttemptRef;
using engine::Run;
using engine::RunState;
using engine::State;

/// Ticks between two comparisons of the indexes with what a rebuild would make.
constexpr int kIndexCheckInterval = 16;

std::string TimeText(const std::optional<absl::Time>& time) {
  return time ? absl::FormatTime(*time, absl::UTCTimeZone()) : "-";
}

/// All of a run that is stored and that the simulation can change.
std::string RunText(const Run& run) {
  std::string gang;
  for (size_t rank = 0; rank < run.gang.size(); ++rank) {
    gang += fmt::format(" {}:{}", run.gang[rank].name, static_cast<int>(run.ranks[rank]));
  }
  const auto& checkpoint = run.progress.checkpoint;
  return fmt::format(
      "{} {} attempt {} failures {} priority {} held {} cause {} intent {} outcome {} ({}) gang{} at '{}' resume {} "
      "'{}' "
      "queued {} started {} ended {} not before {} request '{}' step {} checkpoint {} diverged {} revision {}: {}",
      run.id.ToString(), Name(run.state), run.attempt, run.failures, run.priority, run.is_held,
      static_cast<int>(run.cause), static_cast<int>(run.stop_intent), static_cast<int>(run.outcome), run.outcome_detail,
      gang, run.rendezvous, run.resume_from_attempt, run.resume_checkpoint, TimeText(run.queued_at),
      TimeText(run.started_at), TimeText(run.ended_at), TimeText(run.not_before), run.requeue_request_id,
      run.progress.step, checkpoint ? checkpoint->name : "-", run.progress.diverged, run.revision, run.reason);
}

/// What is due first, and who for: several can be due at one moment.
std::optional<std::pair<absl::Time, std::string>> FirstDue(const State& state) {
  std::optional<std::pair<absl::Time, std::string>> first;
  if (!state.worker_deadlines.empty()) {
    const auto& [time, worker] = *state.worker_deadlines.begin();
    first = {time, worker.name};
  }
  if (!state.backoffs.empty()) {
    const auto& [time, run] = *state.backoffs.begin();
    if (!first || time < first->first) first = {time, run.ToString()};
  }
  return first;
}

bool HasLeader(const Run& run) { return !run.ranks.empty() && run.ranks[0] != engine::RankState::kEnded; }

}  // namespace

void Rules::OnTick(const State& state, const engine::Changes& changes, absl::Time now) {
  if (state.revision < revision_) observer_.Break("the revision went from {} back to {}", revision_, state.revision);
  undo_.clear();
  for (const RunId& id : changes.runs) {
    const Run& run = state.runs.at(id);
    const auto known = shadow_.find(id);
    CheckMove(state, known == shadow_.end() ? nullptr : &known->second, run);
    CheckProgress(run);
    CheckGang(state, run);
    if (known == shadow_.end()) {
      undo_.emplace(id, std::nullopt);
      shadow_.emplace(id, run);
    } else {
      undo_.emplace(id, std::exchange(known->second, run));
    }
  }
  CheckWorkers(state);
  CheckMessages(changes);
  CheckHistory(changes);
  if (++num_ticks_ % kIndexCheckInterval == 0) CheckIndexes(state);
  const auto next = FirstDue(state);
  // What became due in this tick is for the next one.
  const bool is_late = next && next->first <= now;
  if (is_late && late_ == next) {
    observer_.Break("a tick left what was due for {} at {}", next->second, absl::FormatTime(next->first));
  }
  late_ = is_late ? next : std::nullopt;
}

bool Rules::IsSettled() const {
  return num_occupied_ == 0 && std::all_of(shadow_.begin(), shadow_.end(),
                                           [](const auto& entry) { return engine::IsTerminal(entry.second.state); });
}

std::string Rules::Text() const {
  std::string text = fmt::format("{} workers are occupied\n", num_occupied_);
  for (const auto& [id, run] : shadow_) text += RunText(run) + "\n";
  return text;
}

void Rules::RollBack() {
  for (auto& [id, before] : undo_) {
    if (before) {
      shadow_.insert_or_assign(id, *std::move(before));
    } else {
      shadow_.erase(id);
    }
  }
  undo_.clear();
}

void Rules::CheckLoaded(const State& loaded) {
  if (!is_unsure_) {
    if (loaded.runs.size() != shadow_.size()) {
      observer_.Break("{} runs were committed and {} are loaded", shadow_.size(), loaded.runs.size());
    }
    for (const auto& [id, run] : shadow_) {
      const auto found = loaded.runs.find(id);
      if (found == loaded.runs.end()) return observer_.Break("{} was committed and is not loaded", id.ToString());
      if (RunText(run) != RunText(found->second)) {
        return observer_.Break("committed: {}\nloaded:    {}", RunText(run), RunText(found->second));
      }
    }
  } else {
    for (const auto& [id, run] : shadow_) {
      const auto found = loaded.runs.find(id);
      if (found == loaded.runs.end() || found->second.revision < run.revision) {
        return observer_.Break("{} was committed and is older after the restart", id.ToString());
      }
    }
    for (const auto& [id, run] : loaded.runs) {
      const auto before = shadow_.find(id);
      if (before == shadow_.end()) continue;
      // The client's call ended with the process: its name in the run is what is left of it.
      if (run.requeue_request_id != before->second.requeue_request_id) requeued_after_[id] = before->second.attempt;
    }
    shadow_ = loaded.runs;
    std::erase_if(lost_leaders_, [this](const auto& leader) {
      const auto run = shadow_.find(leader.first);
      return run == shadow_.end() || run->second.attempt != leader.second || HasLeader(run->second);
    });
  }
  is_unsure_ = false;
  late_.reset();
  revision_ = loaded.revision;
}

/// Asking for a run that is not over changes nothing of it.
bool Rules::IsRequeued(const Run& before, const Run& after) const {
  return may_requeue_(after.id) && (after.state == RunState::kQueued || after.attempt != before.attempt);
}

/// Whether every rank was started and lives under the agent that started it.
bool Rules::AllLive(const Run& run) const {
  const auto attempt = fabric_.attempts.find({run.id, run.attempt});
  if (attempt == fabric_.attempts.end()) return false;
  for (int rank = 0; rank < static_cast<int>(run.gang.size()); ++rank) {
    const auto agent = started_on_.find({run.id, run.attempt, rank});
    if (agent == started_on_.end() || ended_agents_.contains(agent->second)) return false;
    if (attempt->second.ranks[static_cast<size_t>(rank)] == nullptr) return false;
  }
  return true;
}

void Rules::CheckMove(const State& state, const Run* before, const Run& after) {
  if (before == nullptr) return;
  const std::string id = after.id.ToString();
  if (after.revision <= before->revision) observer_.Break("{} changed without a new revision", id);
  if (after.attempt < before->attempt)
    observer_.Break("{} went from attempt {} to {}", id, before->attempt, after.attempt);
  if (after.state != before->state) {
    observer_.coverage.moves.emplace(before->state, after.state);
    observer_.Mix(static_cast<int64_t>(after.state));
  }
  if (after.attempt == before->attempt && HasLeader(*before) && !HasLeader(after)) {
    const auto worker = state.workers.find(before->gang[0]);
    if (worker == state.workers.end() || !worker->second.has_lease) lost_leaders_.emplace(after.id, after.attempt);
  }
  const bool was_asked = may_requeue_(after.id);
  if (IsRequeued(*before, after)) requeued_after_[after.id] = before->attempt;
  if (engine::IsTerminal(before->state) && after.state != before->state && !was_asked) {
    observer_.Break("{} left {} and nobody had asked", id, Name(before->state));
  }
  if (before->outcome == engine::Outcome::kFinished && after.attempt != before->attempt && !was_asked) {
    observer_.Break("{} does work again that was finished", id);
  }
  if (after.cause == engine::Cause::kWorkerRestarted && engine::IsLive(before->state) && !engine::IsLive(after.state) &&
      AllLive(*before)) {
    observer_.Break("{} is said to have died with its worker's agent, and all ranks live", id);
  }
  if (after.cause == engine::Cause::kPreempted && before->cause != after.cause) ++observer_.coverage.preemptions;
  if (after.cause == engine::Cause::kWorkerLost && before->cause != after.cause) ++observer_.coverage.leases_lost;
}

/// The run shows what trainers of its attempt did, not what others said in its name, and nothing twice.
void Rules::CheckProgress(const Run& run) {
  const auto attempt = fabric_.attempts.find({run.id, run.attempt});
  const bool has_started = engine::IsLive(run.state) && run.ranks[0] == engine::RankState::kStarted;
  if (attempt == fabric_.attempts.end() || !has_started || attempt->second.first_step == 0) return;
  const Fabric::Attempt& truth = attempt->second;
  const int64_t step = run.progress.step;
  if (step >= truth.first_step && !truth.steps.contains(step)) {
    observer_.Break("{} attempt {} is said to be at step {}, which it did not do", run.id.ToString(), run.attempt,
                    step);
  }
  const auto before = shadow_.find(run.id);
  if (before == shadow_.end() || before->second.attempt != run.attempt) return;
  const bool had_started = !before->second.ranks.empty() && before->second.ranks[0] == engine::RankState::kStarted;
  if (had_started && before->second.progress.step > step) {
    observer_.Break("{} attempt {} went from step {} back to {}", run.id.ToString(), run.attempt,
                    before->second.progress.step, step);
  }
}

void Rules::CheckGang(const State& state, const Run& run) {
  const std::string id = run.id.ToString();
  if (!engine::IsLive(run.state)) {
    if (!run.gang.empty()) observer_.Break("{} is {} and has a gang", id, Name(run.state));
    return;
  }
  const int world_size = static_cast<int>(run.gang.size());
  const std::vector<int>& smaller = run.info->smaller_worlds;
  const bool is_allowed =
      world_size == run.info->world_size || std::find(smaller.begin(), smaller.end(), world_size) != smaller.end();
  if (!is_allowed || run.ranks.size() != run.gang.size()) {
    observer_.Break("{} has {} of {} workers", id, run.gang.size(), run.info->world_size);
  }
  const bool lives = std::any_of(run.ranks.begin(), run.ranks.end(),
                                 [](engine::RankState rank) { return rank != engine::RankState::kEnded; });
  if (!lives) observer_.Break("{} is {} but every rank has ended", id, Name(run.state));
  for (int rank = 0; rank < world_size; ++rank) {
    if (run.ranks[static_cast<size_t>(rank)] == engine::RankState::kEnded) continue;
    const AttemptRef ref = {run.id, run.attempt, rank};
    const WorkerId& name = run.gang[static_cast<size_t>(rank)];
    const auto worker = state.workers.find(name);
    if (worker == state.workers.end() || !worker->second.has_lease || worker->second.attempt != ref) {
      observer_.Break("{} is not held by worker {} or has no lease", engine::Text(ref), name.name);
    }
  }
}

/// Only live leases hold capacity: for a rank of a live run (see CheckGang), or for void work that has yet to be
/// killed.
void Rules::CheckWorkers(const State& state) {
  num_occupied_ = 0;
  for (const auto& [id, worker] : state.workers) {
    if (!worker.attempt) continue;
    ++num_occupied_;
    if (!worker.has_lease) observer_.Break("worker {} has no lease and is occupied", id.name);
  }
  for (const auto& [name, owner] : state.owners) {
    if (policy_.workers_per_user_max > 0 && owner.num_workers > policy_.workers_per_user_max) {
      observer_.Break("{} has {} workers, more than {}", name, owner.num_workers, policy_.workers_per_user_max);
    }
  }
}

/// The indexes are what a rebuild would make of the state.
void Rules::CheckIndexes(const State& state) {
  State rebuilt = state;
  engine::BuildIndexes(rebuilt, absl::UnixEpoch(), absl::ZeroDuration());
  if (rebuilt.queue != state.queue) observer_.Break("queue is not the set of queued runs");
  if (rebuilt.lines != state.lines) observer_.Break("lines are not the queued runs that are not held");
  if (rebuilt.live_by_priority != state.live_by_priority) observer_.Break("live_by_priority are not the live runs");
  if (rebuilt.owners != state.owners) observer_.Break("owners do not have what their runs hold");
  if (rebuilt.backoffs != state.backoffs) observer_.Break("backoffs are not those of the queued runs");
  if (rebuilt.live_runs != state.live_runs) observer_.Break("live_runs are not the live runs");
  std::set<WorkerId> idle;
  std::set<WorkerId> with_deadline;
  for (const auto& [deadline, id] : state.worker_deadlines) {
    if (!with_deadline.insert(id).second) observer_.Break("worker {} has two deadlines", id.name);
  }
  for (const auto& [id, worker] : state.workers) {
    if (engine::IsIdle(worker)) idle.insert(id);
    if (worker.has_lease && !with_deadline.contains(id)) observer_.Break("worker {} has no deadline", id.name);
    with_deadline.erase(id);
  }
  if (!with_deadline.empty()) observer_.Break("{} deadlines too many", with_deadline.size());
  if (idle != state.idle_workers) observer_.Break("idle_workers are not the idle workers");
}

void Rules::CheckMessages(const engine::Changes& changes) {
  for (const engine::Outgoing& message : changes.messages) {
    const auto* start = std::get_if<engine::SendStart>(&message.command);
    if (start != nullptr && start->attempt.rank > 0 && start->rendezvous.empty()) {
      observer_.Break("{} was started without an address", engine::Text(start->attempt));
    }
  }
}

/// History holds what the attempt in whose name it stands has done.
void Rules::CheckHistory(const engine::Changes& changes) {
  for (const engine::HistoryRecord& record : changes.history) {
    const auto attempt = fabric_.attempts.find({record.run, record.attempt});
    const bool was_done = attempt != fabric_.attempts.end() && attempt->second.steps.contains(record.step);
    if (record.kind == engine::HistoryKind::kStep && !was_done) {
      observer_.Break("history of {} has step {} in attempt {}, which did not do it", record.run.ToString(),
                      record.step, record.attempt);
    }
  }
}

void Rules::OnFinishAcknowledged(const RunId& id, int attempt) {
  const Run& run = shadow_.at(id);
  // What an attempt says after it was given up is refused, and acknowledged so that it does not come again.
  if (run.attempt != attempt || lost_leaders_.contains({id, attempt})) return;
  if (run.outcome == engine::Outcome::kFinished) {
    finished_.emplace(id, attempt);
  } else if (engine::IsLive(run.state)) {
    observer_.Break("{} attempt {} has finished, which was acknowledged and is not known", id.ToString(), attempt);
  }
}

void Rules::OnTrainerStart(const agent::AttemptKey& key, const std::string& agent) {
  ++observer_.coverage.attempts;
  const auto [known, is_new] = started_on_.emplace(key, agent);
  // A new agent may be given what the one before it had: that one's trainer is gone.
  const std::string name = agent.substr(0, agent.find('-'));
  if (!is_new && (known->second == agent || name != known->second.substr(0, known->second.find('-')))) {
    observer_.Break("{} was started by {} and again by {}", key.ToString(), known->second, agent);
  }
  known->second = agent;
  int& highest = highest_attempt_[key.run];
  if (key.attempt < highest) observer_.Break("{} begins after attempt {}", key.ToString(), highest);
  highest = std::max(highest, key.attempt);
  for (auto done = finished_.upper_bound({key.run, requeued_after_[key.run]});
       done != finished_.end() && done->first == key.run; ++done) {
    if (done->second < key.attempt) {
      observer_.Break("{} begins although attempt {} had finished, which was acknowledged", key.ToString(),
                      done->second);
    }
  }
}

/// Never two attempts of one run at work. (Processes of an attempt that was given up can still be on their way out.)
void Rules::OnWork(const agent::AttemptKey& key, const std::string& worker) {
  const int highest = highest_attempt_[key.run];
  if (key.attempt < highest) {
    observer_.Break("{} works on {} although attempt {} has begun", key.ToString(), worker, highest);
  }
}

}  // namespace normlab::simulation
