#pragma once

#include <absl/time/time.h>

#include <array>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "coordinator/metrics/metrics.h"
#include "coordinator/service/engine_port.h"
#include "coordinator/store/store.h"

namespace normlab {

/// How long what is stored beside ended runs is kept. Zero: for ever, or any number of bytes.
struct RetentionPolicy {
  struct Part {
    absl::Duration age;
    uint64_t bytes_max = 0;
  };
  std::array<Part, std::size(store::Store::kParts)> parts;  // By store::Store::Part.
  absl::Duration interval = absl::Minutes(10);              // Between two passes.
};

/// Removes logs, history and events of ended runs in the background, in small batches between the engine's other work.
/// Runs themselves, live runs, and what is not past a limit stay as they are.
class Retention {
 public:
  /// All must outlive it. Works from Start until it is destroyed, which has to be before the loop ends.
  Retention(const RetentionPolicy& policy, store::Store& store, service::EnginePort& engine, const Clock& clock,
            Metrics& metrics);
  ~Retention();

  void Start();

  /// One pass over everything that is past a limit now; returns how many parts of runs it removed. Start's thread does
  /// this again and again. Fails as the store does, or UNAVAILABLE if the engine has ended.
  absl::StatusOr<int64_t> RunOnce();

 private:
  absl::StatusOr<std::vector<RunId>> Remove(store::Store::Part part, const std::vector<store::Store::EndedRun>& runs);
  absl::StatusOr<std::vector<RunId>> RemoveBatch(store::Store::Part part,
                                                 const std::vector<store::Store::EndedRun>& batch);
  /// False once it is to end.
  bool Pause(absl::Duration time);

  const RetentionPolicy policy_;
  store::Store& store_;
  service::EnginePort& engine_;
  const Clock& clock_;
  Metrics& metrics_;
  std::mutex mutex_;
  std::condition_variable ending_;
  bool is_ending_ = false;  // Guarded by mutex_.
  std::thread thread_;
};

}  // namespace normlab
