#pragma once

#include <atomic>

#include "coordinator/store/store.h"

namespace normlab::store {

/// Passes everything on to `target`, except for commits while `fails` is set: those store nothing.
class FaultyStore final : public Store {
 public:
  explicit FaultyStore(Store& target) : target_(target) {}

  std::atomic<bool> fails = false;
  std::atomic<int> num_commits = 0;  // That were tried.

  absl::StatusOr<engine::State> Load() override { return target_.Load(); }
  absl::Status Commit(const engine::State& state, const engine::Changes& changes) override {
    ++num_commits;
    if (fails) return absl::ResourceExhaustedError("cannot write to faulty: the disk is full (0 bytes are free)");
    return target_.Commit(state, changes);
  }
  absl::StatusOr<std::vector<v1::Event>> Events(RunId run) override { return target_.Events(run); }
  absl::StatusOr<std::vector<v1::StepHistory>> History(RunId run, int64_t after_step, int limit) override {
    return target_.History(run, after_step, limit);
  }
  absl::StatusOr<LogPage> Logs(RunId run, uint64_t position, int limit) override {
    return target_.Logs(run, position, limit);
  }
  absl::StatusOr<std::vector<EndedRun>> FindExpired(Part part, const Limits& limits) override {
    return target_.FindExpired(part, limits);
  }
  absl::Status Expire(Part part, const std::vector<RunId>& runs, absl::Time now) override {
    return target_.Expire(part, runs, now);
  }
  absl::Status Compact(Part part, const std::vector<RunId>& runs) override { return target_.Compact(part, runs); }
  absl::Status WriteCheckpoint(const std::string& folder) override { return target_.WriteCheckpoint(folder); }
  absl::StatusOr<v1::HistorySummary> Summarize(RunId run) override { return target_.Summarize(run); }
  absl::StatusOr<uint64_t> LogTailPosition(RunId run, int count) override {
    return target_.LogTailPosition(run, count);
  }

 private:
  Store& target_;
};

}  // namespace normlab::store
