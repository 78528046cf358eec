#include "cli/trend_reader.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace normlab::cli {
namespace {

constexpr std::chrono::milliseconds kPause{100};
/// Steps of one call.
constexpr int kPageSize = 1000;
/// A long run is read from so many steps before its newest: the screen has no place for more.
constexpr int64_t kStepsBack = 2000;

}  // namespace

TrendReader::TrendReader(std::unique_ptr<Client> client, std::function<void(RunId run, const Trend& trend)> on_change)
    : client_(std::move(client)), on_change_(std::move(on_change)), thread_([this] { Work(); }) {}

TrendReader::~TrendReader() {
  Cancel();
  if (thread_.joinable()) thread_.join();
}

void TrendReader::Cancel() {
  {
    const std::scoped_lock lock(mutex_);
    is_ending_ = true;
  }
  changed_.notify_all();
  client_->CancelCalls();
}

void TrendReader::Finish() {
  {
    const std::scoped_lock lock(mutex_);
    is_finishing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void TrendReader::Follow(std::vector<std::pair<RunId, int64_t>> runs) {
  {
    const std::scoped_lock lock(mutex_);
    runs_ = std::move(runs);
  }
  changed_.notify_all();
}

std::optional<std::pair<RunId, int64_t>> TrendReader::Next() {
  for (size_t i = 0; i < runs_.size(); ++i) {
    const auto& [run, step] = runs_[next_++ % runs_.size()];
    Trend& trend = trends_[run];
    int64_t& seen = seen_[run];
    // Done again from an earlier step: what was read is void.
    if (step < seen) trend = Trend();
    seen = step;
    if (trend.losses.empty()) trend.last_step = std::max(trend.last_step, step - kStepsBack);
    if (trend.last_step < step) return std::pair(run, step);
  }
  return std::nullopt;
}

void TrendReader::Work() {
  std::unique_lock lock(mutex_);
  while (!is_ending_) {
    const auto next = Next();
    if (!next) {
      if (is_finishing_) return;
      changed_.wait(lock);
      continue;
    }
    lock.unlock();
    const bool has_answer = Read(next->first, next->second);
    lock.lock();
    if (is_finishing_ && !has_answer) return;
    changed_.wait_for(lock, kPause, [this] { return is_ending_ || is_finishing_; });
  }
}

bool TrendReader::Read(RunId run, int64_t step) {
  Trend& trend = trends_[run];
  const auto history = client_->GetMetricsAfter(run.ToString(), trend.last_step, kPageSize);
  if (!history.ok()) return false;
  Extend(*history, &trend);
  // Not every step has a report.
  if (static_cast<int>(history->size()) < kPageSize) trend.last_step = std::max(trend.last_step, step);
  on_change_(run, trend);
  return true;
}

}  // namespace normlab::cli
