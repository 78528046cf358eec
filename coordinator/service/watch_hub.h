#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>
#include <set>

#include "coordinator/engine/command.h"
#include "coordinator/service/engine_port.h"
#include "normlab/v1/run.pb.h"

namespace normlab::service {

class Watcher;

/// Tells the watchers of runs what changed. Each watcher has a set of runs that it has not seen in their newest state;
/// when its stream can take a message, the message is made of the state of then. So a slow reader costs the engine
/// nothing, and misses states between, never the newest one. Any thread, except OnTick.
class WatchHub final : public TickListener {
 public:
  explicit WatchHub(EnginePort& engine) : engine_(engine) {}

  /// A new watcher of the runs that `selector` chooses now; gRPC owns it. Ends with NOT_FOUND if there are none.
  grpc::ServerWriteReactor<v1::WatchRunsResponse>* Watch(engine::Selector selector, bool until_terminal);

  void OnTick(const View& view, const engine::Changes& changes) override;

  /// Ends all streams, and those that come later.
  void EndAll(const absl::Status& status);
  int num_watchers() const;

 private:
  friend class Watcher;
  void Begin(const std::shared_ptr<Watcher>& watcher, const engine::Selector& selector, const View& view);
  void Remove(const std::shared_ptr<Watcher>& watcher);

  EnginePort& engine_;
  mutable std::mutex mutex_;
  std::set<std::shared_ptr<Watcher>> watchers_ ABSL_GUARDED_BY(mutex_);
  absl::Status end_ ABSL_GUARDED_BY(mutex_);  // Not OK once EndAll was called.
};

}  // namespace normlab::service
