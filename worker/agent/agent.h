#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "grpcpp/channel.h"
#include "worker/agent/attempt_files.h"
#include "worker/agent/attempts.h"
#include "worker/agent/metrics.h"
#include "worker/agent/session.h"
#include "worker/agent/trainer_run.h"
#include "worker/agent/wakeup.h"

namespace normlab::agent {

struct AgentOptions {
  SessionOptions session;
  AgentFolders folders;
  TrainerSettings trainer;
  /// Time for a checkpoint when the agent itself is stopped or its lease is over.
  absl::Duration stop_grace = absl::Seconds(30);
};

/// The worker: one loop on one thread that owns the session and the trainer. Everything else only wakes it.
class Agent final : private SessionHandler {
 public:
  Agent(AgentOptions options, std::shared_ptr<grpc::Channel> channel, const Clock* clock, Metrics* metrics);

  /// Works until it is asked to end. The calling thread forks the trainers. OK if the trainer has ended and the
  /// coordinator knows; UNAVAILABLE if it could not be told in time; ABORTED after RequestKill.
  absl::Status Run();

  /// Asks Run to end: nothing new is started, the trainer checkpoints and ends, its last report is acknowledged. From
  /// any thread.
  void RequestDrain();
  /// Asks Run to kill the trainer and end at once. From any thread.
  void RequestKill();
  /// Makes Run look at the clock again. From any thread.
  void Wake() { wakeup_->Wake(); }

 private:
  enum class Request { kNone, kDrain, kKill };

  /// What lives while a trainer does.
  struct Current {
    AttemptKey key;
    std::unique_ptr<TrainerRun> trainer;
    std::unique_ptr<RunMetrics> metrics;
  };

  std::optional<AttemptKey> Running() const override;
  void OnStart(const v1::StartAttempt& start) override;
  void OnStop(const v1::StopAttempt& stop) override;
  void OnFenced(const v1::AttemptRef& attempt) override;

  void StepTrainer();
  void StepDrain(Request request);
  void ReportEvent(v1::TrainerEvent event);
  void ReportNotStarted(const AttemptKey& key, const std::string& why);
  void SetGauges();
  void Wait();
  /// Set once Run has nothing left to do.
  std::optional<absl::Status> Result(Request request);

  const AgentOptions options_;
  const Clock* const clock_;
  Metrics* const metrics_;
  const std::shared_ptr<Wakeup> wakeup_ = std::make_shared<Wakeup>();
  std::atomic<Request> request_ = Request::kNone;
  bool is_draining_ = false;
  std::optional<absl::Time> told_by_;    // Draining, and the trainer is gone: until when to wait for acknowledgements.
  std::optional<absl::Time> closed_by_;  // All is said: until when to wait for the stream's end.
  Attempts attempts_;
  std::optional<Current> current_;
  Session session_;
};

}  // namespace normlab::agent
