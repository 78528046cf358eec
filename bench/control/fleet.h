#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "normlab/v1/worker.grpc.pb.h"

namespace normlab::bench {

/// What the workers of a fleet have seen. Safe to call from any thread.
class AssignmentBoard {
 public:
  void RecordWelcome();
  void RecordStart(const std::string& run_id, absl::Time at);
  void RecordError(const absl::Status& error);

  /// Waits until so many workers were welcomed. Any worker's error ends the wait with that error.
  absl::Status WaitForWelcomes(int count, absl::Duration timeout);
  /// When so many starts were seen, waiting for it; fails as WaitForStart does.
  absl::StatusOr<absl::Time> WaitForStarts(size_t count, absl::Duration timeout);
  /// When the run's first rank was asked to start, waiting for it. Any worker's error ends the wait with that error.
  absl::StatusOr<absl::Time> WaitForStart(const std::string& run_id, absl::Duration timeout);

 private:
  std::mutex mutex_;
  std::condition_variable has_news_;
  int welcomes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<std::string, absl::Time> starts_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_start_ ABSL_GUARDED_BY(mutex_);
};

class SimulatedWorker;

/// Workers without trainers: each holds a real session over a connection of its own, sends heartbeats, and reports what
/// it is given as started, finished and exited at once.
class Fleet {
 public:
  /// `board` must outlive the fleet.
  Fleet(const std::string& address, int num_workers, AssignmentBoard& board);
  /// Ends all sessions.
  ~Fleet();

 private:
  std::vector<std::unique_ptr<SimulatedWorker>> workers_;
  std::jthread heartbeats_;
};

}  // namespace normlab::bench
