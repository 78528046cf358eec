#pragma once

#include <absl/time/time.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "coordinator/engine/state.h"
#include "tests/simulation/observer.h"

namespace normlab::simulation {

/// What clients asked, when, and what they were told, held to what one coordinator without faults could have told them.
///
/// An operation takes effect at some moment between its begin and its end; one that was not answered may have done so
/// at any moment, or never, and so may each of its copies that the network still has. A client that saw an effect must
/// never see it undone, except by an operation that may have come later.
class History {
 public:
  enum class Kind { kCreate, kCancel, kRequeue, kHold, kRelease, kPriority };

  /// What the coordinator said that it did to one run.
  struct Done {
    RunId run;
    engine::RunState after = engine::RunState::kQueued;
    int attempt = 0;
    bool has_changed = false;
  };

  struct Operation {
    Kind kind = Kind::kCreate;
    std::vector<RunId> runs;
    std::string request_id;
    int priority = 0;  // Of kPriority and kRequeue.
    bool sets_priority = false;
    absl::Time begin;
    std::optional<absl::Time> end;  // Nothing of it can take effect any more.
    bool was_acknowledged = false;
    std::vector<Done> done;  // Of the acknowledgement.
  };

  /// A run as a client saw it.
  struct Seen {
    RunId run;
    engine::RunState state = engine::RunState::kQueued;
    int attempt = 0;
    int priority = 0;
    bool is_held = false;
    int64_t revision = 0;
  };

  /// As long as somebody has it, the operation can take effect.
  using Token = std::shared_ptr<void>;

  History(const Timeline& timeline, Observer& observer) : timeline_(timeline), observer_(observer) {}

  /// The operation ends when the last copy of the token is gone.
  std::pair<size_t, Token> Begin(Operation operation);
  void Acknowledge(size_t number, std::vector<Done> done, int64_t revision);
  /// Of a create.
  void AcknowledgeCreate(size_t number, ExperimentId id, int num_runs, int priority, int64_t revision);

  struct Read {
    absl::Time begin;
    int64_t revision_floor = 0;  // Of what was acknowledged before it began.
  };
  Read BeginRead() const { return {timeline_.now(), revision_floor_}; }
  /// All runs, as of `revision`.
  void EndRead(const Read& read, int64_t revision, const std::vector<Seen>& seen);

  /// Whether an operation that is under way may requeue the run.
  bool MayRequeue(const RunId& run) const;
  /// Runs that clients know.
  const std::vector<RunId>& known_runs() const { return known_runs_; }

 private:
  struct PerRun {
    std::vector<size_t> operations;
    int priority = 0;          // As submitted.
    bool is_known = false;     // Its submit was acknowledged.
    std::optional<Seen> last;  // Of the read that ended last.
    absl::Time last_end;
  };

  bool MayBeAfter(const Operation& other, const Operation& operation) const;
  void CheckRun(const Read& read, PerRun& run, const Seen& seen);
  void CheckCancelled(const PerRun& run, const Operation& cancel, const Seen& seen);
  void CheckRequeued(const PerRun& run, const Operation& requeue, const Seen& seen);
  void CheckHeld(const PerRun& run, const Operation& hold, const Seen& seen);
  void CheckPriority(const Read& read, const PerRun& run, const Seen& seen);
  bool AnyMayBeAfter(const PerRun& run, const Operation& operation, std::initializer_list<Kind> kinds) const;

  const Timeline& timeline_;
  Observer& observer_;
  std::deque<Operation> operations_;
  std::map<RunId, PerRun> runs_;
  std::vector<RunId> known_runs_;
  std::map<std::string, ExperimentId> by_request_;
  std::set<ExperimentId> experiments_;
  int64_t revision_floor_ = 0;
};

inline History::Seen See(const engine::Run& run) {
  return {run.id, run.state, run.attempt, run.priority, run.is_held, run.revision};
}

}  // namespace normlab::simulation
