#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "normlab/v1/worker.pb.h"
#include "worker/agent/attempts.h"
#include "worker/agent/backoff.h"
#include "worker/agent/lease.h"
#include "worker/agent/report_queue.h"
#include "worker/agent/stream.h"

namespace normlab::agent {

/// What the coordinator asks for. Called from within Session::Step.
class SessionHandler {
 public:
  virtual ~SessionHandler() = default;
  /// The rank whose trainer lives, for hello.
  virtual std::optional<AttemptKey> Running() const = 0;
  virtual void OnStart(const v1::StartAttempt& start) = 0;
  virtual void OnStop(const v1::StopAttempt& stop) = 0;
  /// `attempt` is not current: kill it at once.
  virtual void OnFenced(const v1::AttemptRef& attempt) = 0;
};

struct SessionOptions {
  std::string worker_id;
  std::string incarnation;
  v1::WorkerInfo info;
  size_t report_bytes_max = 32 << 20;
  uint64_t random_seed = 0;  // Of the reconnects' jitter.
};

/// The worker's side of the session: says hello, renews the lease, sends reports until they are acknowledged, and comes
/// back when the stream breaks. Never blocks. One thread calls everything. Nothing survives a crash: an agent that ends
/// takes its trainer with it.
class Session {
 public:
  Session(SessionOptions options, StreamOpener open_stream, const Clock* clock, SessionHandler* handler);

  /// Handles what arrived and does what is due.
  void Step();
  /// When Step has to be called at the latest, if nothing arrives before; steady time.
  absl::Time NextDeadline() const;

  /// Queues a report; the time is now.
  void Report(const v1::AttemptRef& attempt, v1::TrainerEvent event);
  void Report(const v1::AttemptRef& attempt, v1::TrainerExit exit);

  /// From now on the coordinator is told that this worker ends.
  void Drain();
  /// Ends the stream after all that was sent, and does not come back.
  void Close();

  /// The coordinator has welcomed the current stream.
  bool is_welcome() const { return stream_ != nullptr && is_welcome_; }
  /// There is no stream.
  bool is_closed() const { return stream_ == nullptr; }
  const Lease& lease() const { return lease_; }
  const ReportQueue& reports() const { return reports_; }

 private:
  void Connect(absl::Time now);
  void Receive(absl::Time now);
  void Handle(const v1::CoordinatorMessage& message);
  void OnWelcome(const v1::Welcome& welcome);
  void OnEnded(const absl::Status& status, absl::Time now);
  void SendHeartbeat(absl::Time now);
  void SendReports();
  void Queue(v1::AttemptReport report, const v1::AttemptRef& attempt);
  /// When to give up a stream on which nothing comes back.
  absl::Time SilentAt() const;

  const SessionOptions options_;
  const StreamOpener open_stream_;
  const Clock* const clock_;
  SessionHandler* const handler_;

  std::unique_ptr<Stream> stream_;  // Null between two streams.
  bool is_welcome_ = false;         // On this stream.
  bool is_given_up_ = false;        // This stream was cancelled because of its silence.
  bool is_outage_logged_ = false;
  bool is_draining_ = false;
  bool is_closing_ = false;
  absl::Time connect_at_;
  absl::Time hello_at_;
  absl::Time heartbeat_at_;  // The next one.
  absl::Duration heartbeat_interval_;
  Backoff backoff_;
  Lease lease_;
  ReportQueue reports_;
};

}  // namespace normlab::agent
