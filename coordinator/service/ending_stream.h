#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>

#include <mutex>
#include <optional>

#include "common/grpc_status.h"

namespace normlab::service {

/// A stream's end: the first one that is given counts, and gRPC is told once, when nothing of the stream is under way.
/// `Reactor` is one of gRPC's server reactors. Any thread.
template <typename Reactor>
class EndingStream : public Reactor {
 public:
  void End(const absl::Status& status) {
    const std::scoped_lock lock(mutex_);
    EndLocked(status);
  }

 protected:
  void EndLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!end_) end_ = status;
    FinishIfEnded();
  }

  /// To be called when something that was under way is over.
  void FinishIfEnded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!end_ || is_finished_ || is_busy_) return;
    is_finished_ = true;
    this->Finish(ToGrpc(*end_));
  }

  std::mutex mutex_;
  bool is_busy_ ABSL_GUARDED_BY(mutex_) = false;  // A write, or what leads to one, is under way.
  bool is_finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normlab::service
