#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <grpcpp/support/server_callback.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "coordinator/service/engine_port.h"
#include "coordinator/store/store.h"
#include "normlab/v1/run.pb.h"

namespace normlab::service {

class LogStream;

/// Streams log lines out of the store, and wakes the streams that follow a run when it has new ones. Any thread, except
/// OnTick.
class LogHub final : public TickListener {
 public:
  LogHub(EnginePort& engine, store::Store& store) : engine_(engine), store_(store) {}

  struct Request {
    RunId run;
    bool follow = false;
    int tail = 0;  // 0: all.
  };
  /// A new stream; gRPC owns it. Ends with NOT_FOUND if there is no such run.
  grpc::ServerWriteReactor<v1::LogEntry>* Stream(const Request& request);

  void OnTick(const View& view, const engine::Changes& changes) override;

  /// Ends all streams that follow, and those that come later.
  void EndAll(const absl::Status& status);
  int num_followers() const;

 private:
  friend class LogStream;
  void Begin(const std::shared_ptr<LogStream>& stream, const Request& request, const View& view);
  void Remove(RunId run, const std::shared_ptr<LogStream>& stream);

  EnginePort& engine_;
  store::Store& store_;
  mutable std::mutex mutex_;
  std::map<RunId, std::set<std::shared_ptr<LogStream>>> followers_ ABSL_GUARDED_BY(mutex_);
  absl::Status end_ ABSL_GUARDED_BY(mutex_);  // Not OK once EndAll was called.
};

}  // namespace normlab::service
