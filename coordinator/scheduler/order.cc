#include "coordinator/scheduler/order.h"

#include <cmath>
#include <string_view>
#include <tuple>
#include <unordered_map>

namespace normlab::scheduler {
namespace {

/// Priority with what the run has gained by waiting.
int PriorityOf(const engine::Policy& policy, const QueueOrder::Line& line, absl::Time now) {
  const int submitted = -line.key->negative_priority;
  if (policy.aging <= absl::ZeroDuration()) return submitted;
  return submitted + static_cast<int>(std::floor(absl::FDivDuration(now - line.next->queued_at, policy.aging)));
}

double AverageWorkers(const engine::Owner& owner, absl::Time now, absl::Duration half_life) {
  if (half_life <= absl::ZeroDuration()) return 0;
  return engine::UsageAt(owner, now, half_life) * M_LN2 / absl::ToDoubleSeconds(half_life);
}

}  // namespace

bool QueueOrder::IsLater::operator()(const Entry& a, const Entry& b) const {
  return std::tie(b.priority, a.share, a.queued_at, a.id) > std::tie(a.priority, b.share, b.queued_at, b.id);
}

QueueOrder::QueueOrder(const engine::State& state, const engine::Policy& policy, absl::Time now)
    : state_(state), policy_(policy), now_(now) {
  std::unordered_map<std::string_view, size_t> numbers;
  lines_.reserve(state.lines.size());
  for (const auto& [key, places] : state.lines) {
    const auto [number, is_new] = numbers.try_emplace(key.owner, owners_.size());
    if (is_new) {
      const engine::Owner& owner = state.owners.at(key.owner);
      owners_.push_back({AverageWorkers(owner, now, policy.usage_half_life) + owner.num_workers, owner.num_workers});
    }
    lines_.push_back({&key, places.begin(), places.end(), number->second});
  }
  for (Line& line : lines_) {
    if (SkipBackoff(line)) Push(line);
  }
}

bool QueueOrder::SkipBackoff(Line& line) const {
  if (state_.backoffs.empty()) return line.next != line.end;
  for (; line.next != line.end; ++line.next) {
    const engine::Run& run = state_.runs.at(line.next->id);
    if (!run.not_before || *run.not_before <= now_) return true;
  }
  return false;
}

void QueueOrder::Push(Line& line) {
  entries_.push(
      {PriorityOf(policy_, line, now_), owners_[line.owner].share, line.next->queued_at, line.next->id, &line});
}

QueueOrder::Line* QueueOrder::TakeFirst() {
  while (!entries_.empty()) {
    const Entry first = entries_.top();
    entries_.pop();
    // Shares only grow while the order is read, so that an entry made with an older share stands too far in front.
    if (first.share == owners_[first.line->owner].share) return first.line;
    Push(*first.line);
  }
  return nullptr;
}

void QueueOrder::Advance(Line* line) {
  ++line->next;
  if (SkipBackoff(*line)) Push(*line);
}

void QueueOrder::Charge(const Line& line, int num_workers) {
  owners_[line.owner].share += num_workers;
  owners_[line.owner].num_workers += num_workers;
}

}  // namespace normlab::scheduler
