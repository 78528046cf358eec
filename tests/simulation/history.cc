#include "tests/simulation/history.h"

#include <algorithm>

namespace normlab::simulation {

using engine::RunState;

std::pair<size_t, History::Token> History::Begin(Operation operation) {
  const size_t number = operations_.size();
  operation.begin = timeline_.now();
  for (const RunId& run : operation.runs) runs_[run].operations.push_back(number);
  operations_.push_back(std::move(operation));
  const auto end = [this, number](void*) { operations_[number].end = timeline_.now(); };
  return {number, Token(this, end)};
}

void History::Acknowledge(size_t number, std::vector<Done> done, int64_t revision) {
  Operation& operation = operations_[number];
  revision_floor_ = std::max(revision_floor_, revision);
  if (operation.was_acknowledged) return;
  operation.was_acknowledged = true;
  operation.done = std::move(done);
  ++observer_.coverage.acknowledged;
}

void History::AcknowledgeCreate(size_t number, ExperimentId id, int num_runs, int priority, int64_t revision) {
  Operation& operation = operations_[number];
  const auto [known, is_new] = by_request_.emplace(operation.request_id, id);
  if (known->second != id) {
    observer_.Break("request {} made {} and {}", operation.request_id, known->second.ToString(), id.ToString());
  }
  if (is_new && !experiments_.insert(id).second) {
    observer_.Break("{} was given to a second request, {}", id.ToString(), operation.request_id);
  }
  if (is_new) {
    for (int index = 1; index <= num_runs; ++index) {
      runs_[{id, index}].priority = priority;
      runs_[{id, index}].is_known = true;
      known_runs_.push_back({id, index});
    }
  }
  Acknowledge(number, {}, revision);
}

bool History::MayRequeue(const RunId& id) const {
  const auto run = runs_.find(id);
  return run != runs_.end() && std::any_of(run->second.operations.begin(), run->second.operations.end(), [&](size_t i) {
           return operations_[i].kind == Kind::kRequeue && !operations_[i].end;
         });
}

/// Whether `other` can have taken effect after `operation` did, which was acknowledged.
bool History::MayBeAfter(const Operation& other, const Operation& operation) const {
  return &other != &operation && (!other.end || *other.end >= operation.begin);
}

bool History::AnyMayBeAfter(const PerRun& run, const Operation& operation, std::initializer_list<Kind> kinds) const {
  return std::any_of(run.operations.begin(), run.operations.end(), [&](size_t i) {
    const Operation& other = operations_[i];
    return std::find(kinds.begin(), kinds.end(), other.kind) != kinds.end() && MayBeAfter(other, operation);
  });
}

void History::EndRead(const Read& read, int64_t revision, const std::vector<Seen>& seen) {
  ++observer_.coverage.reads;
  if (revision < read.revision_floor) {
    observer_.Break("a client reads revision {} after {} was acknowledged", revision, read.revision_floor);
  }
  revision_floor_ = std::max(revision_floor_, revision);
  std::set<ExperimentId> there;
  for (const Seen& run : seen) there.insert(run.run.experiment);
  const auto num_asked = std::count_if(operations_.begin(), operations_.end(),
                                       [](const Operation& operation) { return operation.kind == Kind::kCreate; });
  if (static_cast<std::ptrdiff_t>(there.size()) > num_asked) {
    observer_.Break("{} experiments were asked for and {} are there", num_asked, there.size());
  }
  std::map<RunId, const Seen*> by_run;
  for (const Seen& run : seen) by_run.emplace(run.run, &run);
  for (auto& [id, run] : runs_) {
    const auto found = by_run.find(id);
    if (found != by_run.end()) {
      CheckRun(read, run, *found->second);
    } else if (run.last && run.last_end < read.begin) {
      observer_.Break("{} was seen and is not there any more", id.ToString());
    }
  }
  for (const RunId& id : known_runs_) {
    // Known runs are those whose submit was acknowledged, maybe while this read was under way.
    const auto create = std::find_if(operations_.begin(), operations_.end(), [&](const Operation& operation) {
      return operation.kind == Kind::kCreate && by_request_.contains(operation.request_id) &&
             by_request_.at(operation.request_id) == id.experiment;
    });
    if (create->end && *create->end < read.begin && !by_run.contains(id)) {
      observer_.Break("{} was acknowledged and is not there", id.ToString());
    }
  }
}

void History::CheckRun(const Read& read, PerRun& run, const Seen& seen) {
  if (run.last && run.last_end < read.begin && seen.revision < run.last->revision) {
    observer_.Break("{} was seen at revision {} and later at {}", seen.run.ToString(), run.last->revision,
                    seen.revision);
  }
  for (const size_t number : run.operations) {
    const Operation& operation = operations_[number];
    if (!operation.was_acknowledged || !operation.end || *operation.end >= read.begin) continue;
    switch (operation.kind) {
      case Kind::kCancel:
        CheckCancelled(run, operation, seen);
        break;
      case Kind::kRequeue:
        CheckRequeued(run, operation, seen);
        break;
      case Kind::kHold:
        CheckHeld(run, operation, seen);
        break;
      default:
        break;
    }
  }
  if (run.is_known) CheckPriority(read, run, seen);
  run.last = seen;
  run.last_end = timeline_.now();
}

void History::CheckCancelled(const PerRun& run, const Operation& cancel, const Seen& seen) {
  if (AnyMayBeAfter(run, cancel, {Kind::kRequeue})) return;
  const auto done =
      std::find_if(cancel.done.begin(), cancel.done.end(), [&](const Done& change) { return change.run == seen.run; });
  if (done == cancel.done.end()) return;
  if (engine::IsTerminal(done->after)) {
    if (seen.state == done->after && seen.attempt == done->attempt) return;
  } else {
    const bool is_right =
        seen.state == RunState::kStopping || seen.state == RunState::kCancelled || seen.state == RunState::kSucceeded;
    if (is_right && seen.attempt == done->attempt) return;
  }
  observer_.Break("{} was cancelled in attempt {} (then {}) and is seen as {} in attempt {}", seen.run.ToString(),
                  done->attempt, engine::Name(done->after), engine::Name(seen.state), seen.attempt);
}

void History::CheckRequeued(const PerRun& run, const Operation& requeue, const Seen& seen) {
  const auto done = std::find_if(requeue.done.begin(), requeue.done.end(),
                                 [&](const Done& change) { return change.run == seen.run; });
  if (done == requeue.done.end() || !done->has_changed || seen.attempt > done->attempt) return;
  if (!engine::IsTerminal(seen.state) || AnyMayBeAfter(run, requeue, {Kind::kCancel})) return;
  observer_.Break("{} was requeued after attempt {} and is seen as {} in attempt {}", seen.run.ToString(),
                  done->attempt, engine::Name(seen.state), seen.attempt);
}

void History::CheckHeld(const PerRun& run, const Operation& hold, const Seen& seen) {
  if (AnyMayBeAfter(run, hold, {Kind::kRelease, Kind::kCancel, Kind::kRequeue})) return;
  const auto done =
      std::find_if(hold.done.begin(), hold.done.end(), [&](const Done& change) { return change.run == seen.run; });
  if (done == hold.done.end() || !done->has_changed) return;
  if (seen.state == RunState::kQueued && seen.is_held && seen.attempt == done->attempt) return;
  observer_.Break("{} was held after attempt {} and is seen as {}{} in attempt {}", seen.run.ToString(), done->attempt,
                  engine::Name(seen.state), seen.is_held ? ", held," : "", seen.attempt);
}

/// The priority is that of an operation which no other surely came after.
void History::CheckPriority(const Read& read, const PerRun& run, const Seen& seen) {
  const auto is_sure = [&](const Operation& operation) {
    return operation.was_acknowledged && operation.end && *operation.end < read.begin &&
           std::any_of(operation.done.begin(), operation.done.end(),
                       [&](const Done& change) { return change.run == seen.run && change.has_changed; });
  };
  std::vector<const Operation*> setters;
  for (const size_t number : run.operations) {
    if (operations_[number].sets_priority) setters.push_back(&operations_[number]);
  }
  const auto is_overwritten = [&](const std::optional<absl::Time>& end) {
    return std::any_of(setters.begin(), setters.end(),
                       [&](const Operation* other) { return is_sure(*other) && (!end || *end < other->begin); });
  };
  if (seen.priority == run.priority && !is_overwritten(std::nullopt)) return;
  for (const Operation* setter : setters) {
    if (setter->priority != seen.priority) continue;
    if (!setter->end || !is_overwritten(setter->end)) return;
  }
  observer_.Break("{} has priority {}, which nobody can have given it last", seen.run.ToString(), seen.priority);
}

}  // namespace normlab::simulation
