#pragma once

#include <absl/time/time.h>

#include <map>
#include <queue>
#include <set>
#include <string>
#include <vector>

#include "coordinator/engine/state.h"

namespace normlab::scheduler {

/// The order in which queued runs are looked at, one after the other. First comes the highest priority, where a run
/// gains a point for every Policy::aging that it has waited; among equals the user with the smallest share; then the
/// oldest run; then the smallest id. A user's share is how many workers he has had on average lately, plus those that
/// he has now, plus those that he is given while the order is read. Runs that are held or in backoff are left out.
class QueueOrder {
 public:
  /// Runs of one user that ask the same with one priority, from the one that is next on.
  struct Line {
    const engine::LineKey* key = nullptr;
    std::set<engine::LinePlace>::const_iterator next;
    std::set<engine::LinePlace>::const_iterator end;
    size_t owner = 0;

    RunId run() const { return next->id; }
  };

  /// `state` must outlive the order and not change meanwhile.
  QueueOrder(const engine::State& state, const engine::Policy& policy, absl::Time now);

  /// The line whose run is next, taken out; null at the end.
  Line* TakeFirst();
  /// Puts a line that was taken back, behind its present run.
  void Advance(Line* line);
  /// The line's user is given so many workers.
  void Charge(const Line& line, int num_workers);

  /// Workers that the line's user has now, with those of Charge.
  int WorkersOf(const Line& line) const { return owners_[line.owner].num_workers; }
  std::vector<Line>& lines() { return lines_; }

 private:
  struct Sharer {
    double share = 0;
    int num_workers = 0;
  };
  struct Entry {
    int priority;
    double share;
    absl::Time queued_at;
    RunId id;
    Line* line;
  };
  struct IsLater {
    bool operator()(const Entry& a, const Entry& b) const;
  };

  bool SkipBackoff(Line& line) const;
  void Push(Line& line);

  const engine::State& state_;
  const engine::Policy& policy_;
  const absl::Time now_;
  std::vector<Sharer> owners_;
  std::vector<Line> lines_;
  std::priority_queue<Entry, std::vector<Entry>, IsLater> entries_;
};

}  // namespace normlab::scheduler
