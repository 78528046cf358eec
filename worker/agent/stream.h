// One stream to the coordinator as the session sees it, so that a session can be driven without a network.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "normlab/v1/worker.pb.h"

namespace normlab::agent {

/// One bidirectional stream, from its opening to its end, as two queues. No method blocks.
class Stream {
 public:
  virtual ~Stream() = default;

  /// Dropped if the stream has ended.
  virtual void Send(v1::WorkerMessage message) = 0;
  /// Messages that were sent but have not left yet.
  virtual size_t backlog() const = 0;
  /// Nothing is sent after what was sent before.
  virtual void HalfClose() = 0;
  /// Ends the stream soon.
  virtual void Cancel() = 0;

  /// What arrived since the last call, in order.
  virtual std::vector<v1::CoordinatorMessage> Take() = 0;
  /// How it ended; nullopt while it lives. Messages that arrived before the end are still there to take.
  virtual std::optional<absl::Status> ended() const = 0;
};

/// Begins a new stream; never null.
using StreamOpener = std::function<std::unique_ptr<Stream>()>;

}  // namespace normlab::agent
