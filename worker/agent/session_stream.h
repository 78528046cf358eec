#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/grpc_channel.h"
#include "grpcpp/grpcpp.h"
#include "normlab/v1/worker.grpc.pb.h"
#include "worker/agent/stream.h"
#include "worker/agent/wakeup.h"

namespace normlab::agent {

/// A channel that tries again quickly: the session itself decides how often. `security` was checked.
std::shared_ptr<grpc::Channel> OpenCoordinatorChannel(const std::string& address, const ChannelSecurity& security);

/// A stream over gRPC, whose threads fill and drain its queues and wake the owner. All methods may be called from any
/// thread.
class SessionStream final : public Stream, public grpc::ClientBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage> {
 public:
  static std::unique_ptr<SessionStream> Open(v1::WorkerService::Stub& stub, std::shared_ptr<Wakeup> wakeup);

  /// Cancels the stream and waits for its end, if it has not ended yet. Not to be called by gRPC's threads: they cannot
  /// wait for themselves, and the last owner of a channel does just that (gRPC 1.51 aborts).
  ~SessionStream() override;

  void Send(v1::WorkerMessage message) override;
  size_t backlog() const override;
  void HalfClose() override;
  void Cancel() override { context_.TryCancel(); }
  std::vector<v1::CoordinatorMessage> Take() override;
  std::optional<absl::Status> ended() const override;

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  explicit SessionStream(std::shared_ptr<Wakeup> wakeup) : wakeup_(std::move(wakeup)) {}
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<Wakeup> wakeup_;
  grpc::ClientContext context_;
  v1::CoordinatorMessage incoming_;  // Of the read that is going on.

  mutable std::mutex mutex_;
  std::condition_variable has_ended_;
  std::deque<v1::WorkerMessage> outbox_ ABSL_GUARDED_BY(mutex_);  // The front is being written while is_writing_.
  std::vector<v1::CoordinatorMessage> inbox_ ABSL_GUARDED_BY(mutex_);
  bool is_writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_write_side_over_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_half_close_asked_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> ended_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normlab::agent
