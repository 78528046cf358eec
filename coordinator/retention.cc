#include "coordinator/retention.h"

#include <algorithm>
#include <future>
#include <memory>
#include <utility>

#include "common/log.h"
#include "common/status.h"
#include "coordinator/engine/run_state.h"

namespace normlab {
namespace {

using store::Store;

/// Runs that one batch takes: about a millisecond of the engine's thread.
constexpr size_t kBatchRuns = 100;
/// Between two batches, so that the engine's own work comes first.
constexpr absl::Duration kBatchPause = absl::Milliseconds(20);

const char* NameOf(Store::Part part) {
  constexpr const char* kNames[] = {"logs", "history", "events"};
  return kNames[static_cast<size_t>(part)];
}

/// Of `batch` the runs that have still ended as they had when they were found: a requeued one is live again.
std::vector<RunId> StillEnded(const engine::State& state, const std::vector<Store::EndedRun>& batch) {
  std::vector<RunId> ended;
  for (const Store::EndedRun& entry : batch) {
    const auto run = state.runs.find(entry.run);
    if (run == state.runs.end() || !engine::IsTerminal(run->second.state)) continue;
    if (run->second.ended_at == entry.ended_at) ended.push_back(entry.run);
  }
  return ended;
}

}  // namespace

Retention::Retention(const RetentionPolicy& policy, Store& store, service::EnginePort& engine, const Clock& clock,
                     Metrics& metrics)
    : policy_(policy), store_(store), engine_(engine), clock_(clock), metrics_(metrics) {}

Retention::~Retention() {
  {
    const std::scoped_lock lock(mutex_);
    is_ending_ = true;
  }
  ending_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Retention::Start() {
  thread_ = std::thread([this] {
    do {
      const auto removed = RunOnce();
      if (!removed.ok()) spdlog::warn("retention: {}", std::string(removed.status().message()));
    } while (Pause(policy_.interval));
  });
}

bool Retention::Pause(absl::Duration time) {
  std::unique_lock lock(mutex_);
  return !ending_.wait_for(lock, absl::ToChronoMilliseconds(time), [this] { return is_ending_; });
}

absl::StatusOr<int64_t> Retention::RunOnce() {
  int64_t num_removed = 0;
  for (const Store::Part part : Store::kParts) {
    const RetentionPolicy::Part& limit = policy_.parts[static_cast<size_t>(part)];
    Store::Limits limits{.bytes_max = limit.bytes_max};
    if (limit.age > absl::ZeroDuration()) limits.ended_before = clock_.Now() - limit.age;
    NORMLAB_ASSIGN_OR_RETURN(const std::vector<Store::EndedRun> expired, store_.FindExpired(part, limits));
    if (expired.empty()) continue;
    NORMLAB_ASSIGN_OR_RETURN(const std::vector<RunId> removed, Remove(part, expired));
    spdlog::info("retention removed the {} of {} ended runs", NameOf(part), removed.size());
    // Before the next pass measures again: what was removed would be counted until then, and more be removed.
    NORMLAB_RETURN_IF_ERROR(store_.Compact(part, removed));
    num_removed += static_cast<int64_t>(removed.size());
  }
  return num_removed;
}

absl::StatusOr<std::vector<RunId>> Retention::Remove(Store::Part part, const std::vector<Store::EndedRun>& runs) {
  std::vector<RunId> all;
  for (auto next = runs.begin(); next != runs.end();) {
    const auto end = next + std::min<ptrdiff_t>(kBatchRuns, runs.end() - next);
    NORMLAB_ASSIGN_OR_RETURN(const std::vector<RunId> removed, RemoveBatch(part, {next, end}));
    metrics_.expired.Add({{"part", NameOf(part)}}).Increment(static_cast<double>(removed.size()));
    all.insert(all.end(), removed.begin(), removed.end());
    next = end;
    if (next != runs.end() && !Pause(kBatchPause)) break;
  }
  return all;
}

absl::StatusOr<std::vector<RunId>> Retention::RemoveBatch(Store::Part part, const std::vector<Store::EndedRun>& batch) {
  const auto done = std::make_shared<std::promise<absl::StatusOr<std::vector<RunId>>>>();
  auto result = done->get_future();
  // On the engine's thread, which is the store's writer and knows what is live.
  engine_.Read([this, part, batch, done](const absl::Status& status, const service::View* view) {
    if (!status.ok()) return done->set_value(status);
    std::vector<RunId> runs = StillEnded(view->state, batch);
    const absl::Status removed = store_.Expire(part, runs, view->now);
    if (!removed.ok()) return done->set_value(removed);
    done->set_value(std::move(runs));
  });
  return result.get();
}

}  // namespace normlab
