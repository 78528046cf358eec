#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include "coordinator/engine/command.h"
#include "coordinator/service/change_log.h"
#include "coordinator/service/engine_port.h"
#include "normlab/v1/run.pb.h"

namespace normlab::service {

class Watcher;

/// Tells the watchers of runs what changed: each change once, in the order of revisions. They read one log of changes,
/// each at its own pace and on gRPC's threads; one that falls behind what the log keeps is told so and ended. So a slow
/// reader costs the engine nothing. Any thread, except OnTick.
class WatchHub final : public TickListener {
 public:
  explicit WatchHub(EnginePort& engine, size_t changes_kept = 32'768) : engine_(engine), log_(changes_kept) {}

  struct Request {
    engine::Selector selector;
    bool until_terminal = false;
    std::optional<int64_t> since_revision;  // Nullopt: first the runs as they are.
  };
  /// A new watcher of the runs that the selector chooses now; gRPC owns it. Ends with NOT_FOUND if there are none.
  grpc::ServerWriteReactor<v1::WatchRunsResponse>* Watch(Request request);

  void OnStart(int64_t revision) override { log_.Begin(revision); }
  void OnTick(const View& view, const engine::Changes& changes) override;

  /// Ends all streams, and those that come later.
  void EndAll(const absl::Status& status);
  int num_watchers() const;
  /// Revisions that the slowest watcher has still to be sent; 0 if all have been sent all.
  int64_t lag() const;
  /// Watchers that had to look anew, since the start.
  int64_t num_resyncs() const { return num_resyncs_; }

 private:
  friend class Watcher;
  void Begin(const std::shared_ptr<Watcher>& watcher, const Request& request, const View& view);
  void Remove(const std::shared_ptr<Watcher>& watcher);

  EnginePort& engine_;
  ChangeLog log_;
  std::atomic<int64_t> num_resyncs_ = 0;
  mutable std::mutex mutex_;
  std::set<std::shared_ptr<Watcher>> watchers_ ABSL_GUARDED_BY(mutex_);
  absl::Status end_ ABSL_GUARDED_BY(mutex_);  // Not OK once EndAll was called.
};

}  // namespace normlab::service
