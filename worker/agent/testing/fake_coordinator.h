// A coordinator that does what a test says.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "normlab/v1/worker.grpc.pb.h"

namespace normlab::agent {

/// Serves one worker on a free port of loopback. Remembers all that it says, over all sessions. Any thread.
class FakeCoordinator final : private v1::WorkerService::Service {
 public:
  using WorkerMessages = std::vector<v1::WorkerMessage>;

  FakeCoordinator() { Start(); }
  ~FakeCoordinator() override { Stop(); }

  std::string address() const { return fmt::format("127.0.0.1:{}", port_); }

  /// As a killed coordinator: all streams break.
  void Stop() {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }
  /// On the same port as before.
  void Start() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(fmt::format("127.0.0.1:{}", port_), grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    port_ = port;
  }

  // What it does by itself.
  void set_lease(absl::Duration lease) {
    const std::scoped_lock lock(mutex_);
    lease_ = lease;
  }
  void set_acknowledges(bool value) {
    const std::scoped_lock lock(mutex_);
    acknowledges_ = value;
  }
  void set_answers_heartbeats(bool value) {
    const std::scoped_lock lock(mutex_);
    answers_heartbeats_ = value;
  }
  /// The next hello is refused.
  void RefuseOnce(const grpc::Status& status) {
    const std::scoped_lock lock(mutex_);
    refusal_ = status;
  }
  void FenceAtNextHello(const v1::AttemptRef& attempt) {
    const std::scoped_lock lock(mutex_);
    *fenced_.Add() = attempt;
  }

  /// To the worker; false if no session is open.
  bool Send(const v1::CoordinatorMessage& message) {
    const std::scoped_lock lock(mutex_);
    return stream_ != nullptr && stream_->Write(message);
  }

  /// Waits until `predicate` holds for all that the worker has said; false after 20 seconds.
  template <typename Predicate>
  bool Await(const Predicate& predicate) {
    return AwaitFor(absl::Seconds(20), predicate);
  }
  template <typename Predicate>
  bool AwaitFor(absl::Duration timeout, const Predicate& predicate) {
    std::unique_lock lock(mutex_);
    return has_news_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [&] { return predicate(messages_); });
  }
  WorkerMessages messages() const {
    const std::scoped_lock lock(mutex_);
    return messages_;
  }

 private:
  using Stream = grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>;

  grpc::Status Session(grpc::ServerContext*, Stream* stream) override {
    v1::WorkerMessage message;
    while (stream->Read(&message)) {
      const std::scoped_lock lock(mutex_);
      messages_.push_back(message);
      has_news_.notify_all();
      if (message.has_hello()) {
        if (refusal_) return *std::exchange(refusal_, std::nullopt);
        stream_ = stream;
        v1::CoordinatorMessage answer;
        answer.mutable_welcome()->mutable_lease()->set_seconds(absl::ToInt64Seconds(lease_));
        answer.mutable_welcome()->mutable_heartbeat_interval()->set_seconds(absl::ToInt64Seconds(lease_ / 3));
        answer.mutable_welcome()->mutable_fenced()->Swap(&fenced_);
        fenced_.Clear();
        stream->Write(answer);
      } else if (message.has_heartbeat() && answers_heartbeats_) {
        v1::CoordinatorMessage answer;
        answer.mutable_lease_renewed();
        stream->Write(answer);
      } else if (message.has_report() && acknowledges_) {
        v1::CoordinatorMessage answer;
        answer.mutable_ack()->set_sequence(message.report().sequence());
        stream->Write(answer);
      }
    }
    const std::scoped_lock lock(mutex_);
    if (stream_ == stream) stream_ = nullptr;
    return grpc::Status::OK;
  }

  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable has_news_;  // More in messages_.
  Stream* stream_ ABSL_GUARDED_BY(mutex_) = nullptr;
  WorkerMessages messages_ ABSL_GUARDED_BY(mutex_);
  absl::Duration lease_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(30);
  bool acknowledges_ ABSL_GUARDED_BY(mutex_) = true;
  bool answers_heartbeats_ ABSL_GUARDED_BY(mutex_) = true;
  std::optional<grpc::Status> refusal_ ABSL_GUARDED_BY(mutex_);
  google::protobuf::RepeatedPtrField<v1::AttemptRef> fenced_ ABSL_GUARDED_BY(mutex_);
};

// What to look for in a worker's messages.

inline size_t CountHellos(const FakeCoordinator::WorkerMessages& messages) {
  size_t count = 0;
  for (const auto& message : messages) count += message.has_hello();
  return count;
}

inline std::vector<v1::AttemptReport> Reports(const FakeCoordinator::WorkerMessages& messages) {
  std::vector<v1::AttemptReport> reports;
  for (const auto& message : messages) {
    if (message.has_report()) reports.push_back(message.report());
  }
  return reports;
}

/// The first report of a trainer's end, or nullopt.
inline std::optional<v1::TrainerExit> FindExit(const FakeCoordinator::WorkerMessages& messages) {
  for (const v1::AttemptReport& report : Reports(messages)) {
    if (report.has_exit()) return report.exit();
  }
  return std::nullopt;
}

inline bool HasEvent(const FakeCoordinator::WorkerMessages& messages, v1::TrainerEvent::EventCase event) {
  for (const v1::AttemptReport& report : Reports(messages)) {
    if (report.event().event_case() == event) return true;
  }
  return false;
}

/// The text of the first log line that starts with `prefix`, without it.
inline std::optional<std::string> FindLog(const FakeCoordinator::WorkerMessages& messages, const std::string& prefix) {
  for (const v1::AttemptReport& report : Reports(messages)) {
    const std::string& text = report.event().log().text();
    if (report.event().has_log() && text.starts_with(prefix)) return text.substr(prefix.size());
  }
  return std::nullopt;
}

}  // namespace normlab::agent
