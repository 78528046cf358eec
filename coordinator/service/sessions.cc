#include "coordinator/service/sessions.h"

#include <fmt/format.h>

#include <deque>
#include <utility>
#include <vector>

#include "common/log.h"
#include "common/version.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/ending_stream.h"
#include "coordinator/service/limits.h"

namespace normlab::service {

/// One stream. Lives until gRPC is done with it and nobody else holds it.
class Session final : public EndingStream<grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>>,
                      public std::enable_shared_from_this<Session> {
 public:
  Session(Sessions& sessions, EnginePort& engine) : sessions_(sessions), engine_(engine) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&incoming_);
  }

  /// Set once, before the session is known to others.
  const WorkerId& worker() const { return worker_; }
  const std::string& incarnation() const { return incarnation_; }

  /// The engine's answer to the hello.
  void HelloAnswered(const absl::Status& status) {
    if (!status.ok()) return End(status);
    const std::scoped_lock lock(mutex_);
    accepts_messages_ = true;
  }

  /// The engine's answer to anything else.
  void Answered(const absl::Status& status) {
    if (!status.ok()) return End(status);
    const std::scoped_lock lock(mutex_);
    --num_pending_;
    if (std::exchange(reads_are_paused_, false) && !end_) StartRead(&incoming_);
  }

  void Send(const engine::WorkerCommand& command) {
    const std::scoped_lock lock(mutex_);
    // What was meant for an earlier session of this worker: the answer to this session's hello says it again.
    if (!accepts_messages_ || end_) return;
    if (outgoing_.size() >= kSessionOutgoingMax) {
      return EndLocked(absl::ResourceExhaustedError(
          fmt::format("worker {} has {} messages to read; it must come back", worker_.name, outgoing_.size())));
    }
    v1::CoordinatorMessage message = ToMessage(command);
    // The front may be in the middle of its write.
    const bool replaces_ack = message.has_ack() && outgoing_.size() > 1 && outgoing_.back().has_ack();
    if (replaces_ack) {
      outgoing_.back() = std::move(message);
    } else {
      outgoing_.push_back(std::move(message));
    }
    WriteFront();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::OkStatus());
    if (worker_.name.empty()) return TakeHello();
    absl::Status taken;
    switch (incoming_.message_case()) {
      case v1::WorkerMessage::kHeartbeat:
        Submit(engine::WorkerHeartbeat{.worker = worker_, .incarnation = incarnation_});
        break;
      case v1::WorkerMessage::kReport: {
        auto report = ToCommand(incoming_.report(), worker_, incarnation_);
        if (report.ok()) {
          Submit(*std::move(report));
        } else {
          taken = report.status();
        }
        break;
      }
      case v1::WorkerMessage::kDraining:
        Submit(engine::WorkerDraining{.worker = worker_, .incarnation = incarnation_});
        break;
      case v1::WorkerMessage::kHello:
        taken = absl::InvalidArgumentError("a session has one hello, this was the second");
        break;
      case v1::WorkerMessage::MESSAGE_NOT_SET:
        taken = absl::InvalidArgumentError("a message of the worker is of no kind that this coordinator knows");
        break;
    }
    if (!taken.ok()) return End(taken);
    ReadNext();
  }

  void OnWriteDone(bool ok) override {
    const std::scoped_lock lock(mutex_);
    is_busy_ = false;
    outgoing_.pop_front();
    if (!ok) return EndLocked(absl::CancelledError("the worker is gone"));
    FinishIfEnded();
    WriteFront();
  }

  void OnCancel() override { End(absl::CancelledError("the worker is gone")); }

  void OnDone() override {
    {
      const std::scoped_lock lock(mutex_);
      if (!worker_.name.empty()) {
        spdlog::info("worker {}: session ended: {}", worker_.name, end_ ? end_->ToString() : "cancelled");
      }
    }
    sessions_.Closed(shared_from_this());
    self_.reset();
  }

 private:
  void TakeHello() {
    if (!incoming_.has_hello()) return End(absl::InvalidArgumentError("the first message of a session must be hello"));
    const v1::WorkerHello& hello = incoming_.hello();
    if (hello.protocol_version() != kProtocolVersion) {
      return End(absl::FailedPreconditionError(fmt::format(
          "worker {} (build {}) speaks protocol version {}, this coordinator (build {}) speaks {}: use the same build",
          hello.worker_id().substr(0, kIdBytesMax), hello.info().build().substr(0, kIdBytesMax),
          hello.protocol_version(), kVersion, kProtocolVersion)));
    }
    auto command = ToCommand(hello);
    if (!command.ok()) return End(command.status());
    worker_ = command->worker;
    incarnation_ = command->incarnation;
    sessions_.Hello(shared_from_this(), *std::move(command));
    ReadNext();
  }

  void Submit(engine::Command command) {
    {
      const std::scoped_lock lock(mutex_);
      ++num_pending_;
    }
    engine_.Submit(std::move(command), [self = shared_from_this()](const absl::StatusOr<engine::Reply>& reply,
                                                                   const View*) { self->Answered(reply.status()); });
  }

  void ReadNext() {
    const std::scoped_lock lock(mutex_);
    if (end_) return;
    if (num_pending_ >= kSessionPendingMax) {
      reads_are_paused_ = true;
    } else {
      StartRead(&incoming_);
    }
  }

  void WriteFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (is_busy_ || end_ || outgoing_.empty()) return;
    is_busy_ = true;
    StartWrite(&outgoing_.front());
  }

  Sessions& sessions_;
  EnginePort& engine_;
  std::shared_ptr<Session> self_;
  v1::WorkerMessage incoming_;  // gRPC's during a read.
  WorkerId worker_;
  std::string incarnation_;

  std::deque<v1::CoordinatorMessage> outgoing_ ABSL_GUARDED_BY(mutex_);  // The first one is being written.
  int num_pending_ ABSL_GUARDED_BY(mutex_) = 0;                          // Commands without an answer.
  bool reads_are_paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool accepts_messages_ ABSL_GUARDED_BY(mutex_) = false;
};

grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Sessions::Open() {
  auto session = std::make_shared<Session>(*this, engine_);
  absl::Status end;
  {
    const std::scoped_lock lock(mutex_);
    open_.insert(session);
    end = end_;
  }
  session->Begin();
  if (!end.ok()) session->End(end);
  return session.get();
}

void Sessions::Hello(const std::shared_ptr<Session>& session, engine::WorkerHello hello) {
  std::shared_ptr<Session> old;
  {
    const std::scoped_lock lock(mutex_);
    old = std::exchange(by_worker_[session->worker()], session);
    spdlog::info("worker {}: session began (incarnation {})", hello.worker.name, hello.incarnation);
    engine_.Submit(std::move(hello), [session](const absl::StatusOr<engine::Reply>& reply, const View*) {
      session->HelloAnswered(reply.status());
    });
  }
  if (old) {
    old->End(absl::AbortedError(fmt::format("worker {} has begun another session", session->worker().name)));
  }
}

void Sessions::Closed(const std::shared_ptr<Session>& session) {
  const std::scoped_lock lock(mutex_);
  open_.erase(session);
  const auto current = by_worker_.find(session->worker());
  if (current == by_worker_.end() || current->second != session) return;
  by_worker_.erase(current);
  engine_.Submit(engine::WorkerDisconnected{.worker = session->worker(), .incarnation = session->incarnation()},
                 [](const absl::StatusOr<engine::Reply>&, const View*) {});
}

void Sessions::OnTick(const View& /*view*/, const engine::Changes& changes) {
  for (const engine::Outgoing& outgoing : changes.messages) {
    std::shared_ptr<Session> session;
    {
      const std::scoped_lock lock(mutex_);
      const auto found = by_worker_.find(outgoing.worker);
      if (found == by_worker_.end() || found->second->incarnation() != outgoing.incarnation) continue;
      session = found->second;
    }
    session->Send(outgoing.command);
  }
}

void Sessions::EndAll(const absl::Status& status) {
  std::vector<std::shared_ptr<Session>> sessions;
  {
    const std::scoped_lock lock(mutex_);
    end_ = status;
    sessions.assign(open_.begin(), open_.end());
  }
  for (const auto& session : sessions) session->End(status);
}

int Sessions::num_sessions() const {
  const std::scoped_lock lock(mutex_);
  return static_cast<int>(by_worker_.size());
}

}  // namespace normlab::service
