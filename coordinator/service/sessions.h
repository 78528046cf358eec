#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <grpcpp/support/server_callback.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "coordinator/service/engine_port.h"
#include "normlab/v1/worker.pb.h"

namespace normlab::service {

class Session;

/// The open streams of workers: passes what workers say to the engine and what the engine says to workers. At most one
/// session per worker counts: a new one ends the old one. Any thread, except OnTick.
class Sessions final : public TickListener {
 public:
  explicit Sessions(EnginePort& engine) : engine_(engine) {}

  /// A new session that waits for its hello; gRPC owns it.
  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Open();

  void OnTick(const View& view, const engine::Changes& changes) override;

  /// Ends all sessions, and those that come later. Workers go on working and come back within their lease.
  void EndAll(const absl::Status& status);
  int num_sessions() const;

 private:
  friend class Session;
  /// Makes `session` its worker's session. In one step with queueing the hello, so that the engine sees hellos and
  /// disconnects of one worker in the order in which its sessions counted.
  void Hello(const std::shared_ptr<Session>& session, engine::WorkerHello hello);
  /// The stream is over. Tells the engine if the session still counted.
  void Closed(const std::shared_ptr<Session>& session);

  EnginePort& engine_;
  mutable std::mutex mutex_;
  std::map<WorkerId, std::shared_ptr<Session>> by_worker_ ABSL_GUARDED_BY(mutex_);
  std::set<std::shared_ptr<Session>> open_ ABSL_GUARDED_BY(mutex_);
  absl::Status end_ ABSL_GUARDED_BY(mutex_);  // Not OK once EndAll was called.
};

}  // namespace normlab::service
