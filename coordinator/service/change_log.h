#pragma once

#include <absl/base/thread_annotations.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include "coordinator/engine/state.h"

namespace normlab::service {

/// The newest changes of runs in the order of their revisions, so that watchers can be behind without holding anybody
/// up. A run that several commands of one commit changed has changed once. The engine's thread writes; any thread
/// reads. Nothing of it survives a restart.
class ChangeLog {
 public:
  /// Runs without their layers.
  explicit ChangeLog(size_t changes_max = 32'768) : changes_max_(changes_max) {}

  /// The state that was loaded has this revision; what was changed before is not known. First of all.
  void Begin(int64_t revision);
  /// Takes in a tick's changes.
  void Append(const engine::State& state, const std::set<RunId>& changed);

  struct Position {
    uint64_t sequence = 0;  // Of the next change to read.
    int64_t revision = 0;   // All changes up to it were before.
  };
  /// Behind the newest change.
  Position End() const;
  /// Behind all changes up to `revision`; nullopt if not all after it are kept, or it lies in the future.
  std::optional<Position> Find(int64_t revision) const;
  /// Revisions that Find takes.
  int64_t oldest_revision() const;
  int64_t newest_revision() const;

  struct Page {
    std::vector<std::shared_ptr<const engine::Run>> runs;
    std::vector<uint64_t> sequences;  // Of each.
    Position next;
    bool is_end = false;  // There is no more now.
  };
  /// Changes of `chosen` runs from `sequence` on, at most `limit`; it may be none though there are more. Nullopt if the
  /// change at `sequence` is not kept any more.
  std::optional<Page> Read(uint64_t sequence, const std::set<RunId>& chosen, size_t limit) const;

 private:
  struct Change {
    int64_t revision;
    std::shared_ptr<const engine::Run> run;
  };

  int64_t RevisionBefore(size_t index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t changes_max_;
  mutable std::mutex mutex_;
  std::deque<Change> changes_ ABSL_GUARDED_BY(mutex_);
  uint64_t first_sequence_ ABSL_GUARDED_BY(mutex_) = 0;  // Of changes_.front().
  int64_t oldest_revision_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t newest_revision_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace normlab::service
