#include "worker/agent/session_stream.h"

#include <utility>

#include "common/grpc_status.h"

namespace normlab::agent {

std::shared_ptr<grpc::Channel> OpenCoordinatorChannel(const std::string& address, const ChannelSecurity& security) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // Also the longest time for one handshake.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, security.ca_file.empty() ? 100 : 2000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Loopback needs no proxy, and an environment with one would send the stream there.
  if (IsLoopbackHost(address.substr(0, address.rfind(':')))) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return OpenChannel(address, security, arguments);
}

std::unique_ptr<SessionStream> SessionStream::Open(v1::WorkerService::Stub& stub, std::shared_ptr<Wakeup> wakeup) {
  std::unique_ptr<SessionStream> stream(new SessionStream(std::move(wakeup)));
  stub.async()->Session(&stream->context_, stream.get());
  // Writes start outside of reactions: without a hold, gRPC may call OnDone under them.
  stream->AddHold();
  stream->StartRead(&stream->incoming_);
  stream->StartCall();
  return stream;
}

SessionStream::~SessionStream() {
  Cancel();
  std::unique_lock lock(mutex_);
  has_ended_.wait(lock, [this] { return ended_.has_value(); });
}

void SessionStream::Send(v1::WorkerMessage message) {
  const std::scoped_lock lock(mutex_);
  if (is_write_side_over_) return;
  outbox_.push_back(std::move(message));
  if (!is_writing_) WriteNext();
}

size_t SessionStream::backlog() const {
  const std::scoped_lock lock(mutex_);
  return outbox_.size();
}

void SessionStream::HalfClose() {
  const std::scoped_lock lock(mutex_);
  if (is_write_side_over_ || is_half_close_asked_) return;
  is_half_close_asked_ = true;
  if (!is_writing_) WriteNext();
}

std::vector<v1::CoordinatorMessage> SessionStream::Take() {
  const std::scoped_lock lock(mutex_);
  return std::exchange(inbox_, {});
}

std::optional<absl::Status> SessionStream::ended() const {
  const std::scoped_lock lock(mutex_);
  return ended_;
}

void SessionStream::WriteNext() {
  if (!outbox_.empty()) {
    is_writing_ = true;
    StartWrite(&outbox_.front());
  } else if (is_half_close_asked_) {
    is_write_side_over_ = true;
    StartWritesDone();
  }
}

void SessionStream::OnReadDone(bool ok) {
  {
    const std::scoped_lock lock(mutex_);
    if (ok) {
      inbox_.push_back(std::move(incoming_));
      incoming_.Clear();
    } else {
      is_write_side_over_ = true;
    }
  }
  wakeup_->Wake();
  if (ok) {
    StartRead(&incoming_);
  } else {
    RemoveHold();
  }
}

void SessionStream::OnWriteDone(bool ok) {
  {
    const std::scoped_lock lock(mutex_);
    is_writing_ = false;
    outbox_.pop_front();
    if (!ok) is_write_side_over_ = true;
    if (is_write_side_over_) {
      outbox_.clear();
    } else {
      WriteNext();
    }
  }
  wakeup_->Wake();
}

void SessionStream::OnDone(const grpc::Status& status) {
  // Once the end is known, the owner may destroy this object.
  const std::shared_ptr<Wakeup> wakeup = wakeup_;
  {
    const std::scoped_lock lock(mutex_);
    ended_ = FromGrpc(status);
    // Under the lock: once it is released, the destructor may go on.
    has_ended_.notify_all();
  }
  wakeup->Wake();
}

}  // namespace normlab::agent
