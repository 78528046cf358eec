#include "coordinator/service/change_log.h"

#include <algorithm>
#include <iterator>

namespace normlab::service {
namespace {

/// Changes that one Read looks at: bounds how long it holds up the engine's thread.
constexpr size_t kScannedMax = 2048;

std::shared_ptr<const engine::Run> Copy(const engine::Run& run) {
  auto copy = std::make_shared<engine::Run>(run);
  copy->progress.last_layers = std::string();  // Lists do not show them, and they are most of a run's bytes.
  return copy;
}

}  // namespace

void ChangeLog::Begin(int64_t revision) {
  const std::scoped_lock lock(mutex_);
  oldest_revision_ = newest_revision_ = revision;
}

void ChangeLog::Append(const engine::State& state, const std::set<RunId>& changed) {
  std::vector<Change> added;
  added.reserve(changed.size());
  for (const RunId id : changed) {
    const engine::Run& run = state.runs.at(id);
    added.push_back({run.revision, Copy(run)});
  }
  // Stable: runs that one command changed stay in the order of their ids.
  std::stable_sort(added.begin(), added.end(),
                   [](const Change& a, const Change& b) { return a.revision < b.revision; });
  const std::scoped_lock lock(mutex_);
  newest_revision_ = state.revision;
  std::move(added.begin(), added.end(), std::back_inserter(changes_));
  while (changes_.size() > changes_max_) {
    oldest_revision_ = changes_.front().revision;
    changes_.pop_front();
    ++first_sequence_;
  }
}

int64_t ChangeLog::RevisionBefore(size_t index) const {
  return index == changes_.size() ? newest_revision_ : changes_[index].revision - 1;
}

ChangeLog::Position ChangeLog::End() const {
  const std::scoped_lock lock(mutex_);
  return {.sequence = first_sequence_ + changes_.size(), .revision = newest_revision_};
}

std::optional<ChangeLog::Position> ChangeLog::Find(int64_t revision) const {
  const std::scoped_lock lock(mutex_);
  if (revision < oldest_revision_ || revision > newest_revision_) return std::nullopt;
  const auto next = std::upper_bound(changes_.begin(), changes_.end(), revision,
                                     [](int64_t value, const Change& change) { return value < change.revision; });
  return Position{.sequence = first_sequence_ + static_cast<uint64_t>(next - changes_.begin()), .revision = revision};
}

int64_t ChangeLog::oldest_revision() const {
  const std::scoped_lock lock(mutex_);
  return oldest_revision_;
}

int64_t ChangeLog::newest_revision() const {
  const std::scoped_lock lock(mutex_);
  return newest_revision_;
}

std::optional<ChangeLog::Page> ChangeLog::Read(uint64_t sequence, const std::set<RunId>& chosen, size_t limit) const {
  const std::scoped_lock lock(mutex_);
  if (sequence < first_sequence_) return std::nullopt;
  Page page;
  size_t index = sequence - first_sequence_;
  const size_t end = std::min(changes_.size(), index + kScannedMax);
  for (; index < end && page.runs.size() < limit; ++index) {
    if (!chosen.contains(changes_[index].run->id)) continue;
    page.runs.push_back(changes_[index].run);
    page.sequences.push_back(first_sequence_ + index);
  }
  page.next = {.sequence = first_sequence_ + index, .revision = RevisionBefore(index)};
  page.is_end = index == changes_.size();
  return page;
}

}  // namespace normlab::service
