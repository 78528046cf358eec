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
#include "worker/agent/core.h"
#include "worker/agent/metrics.h"
#include "worker/agent/run_metrics.h"
#include "worker/agent/session_stream.h"
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

/// The worker: one loop on one thread that gives the core its streams, trainers and time. Everything else only wakes
/// it.
class Agent final : private TrainerHost {
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
  using Request = AgentCore::Request;

  absl::StatusOr<std::unique_ptr<Trainer>> StartTrainer(const AttemptKey& key, const v1::StartAttempt& start) override;
  void OnEvent(const v1::TrainerEvent& event) override;
  void OnEnd(const AttemptKey& key) override;
  void OnNotStarted(const AttemptKey& key, const std::string& why) override;

  void SetGauges();
  void Wait();

  const AgentOptions options_;
  const Clock* const clock_;
  Metrics* const metrics_;
  const std::shared_ptr<Wakeup> wakeup_ = std::make_shared<Wakeup>();
  const std::unique_ptr<v1::WorkerService::Stub> stub_;
  std::atomic<Request> request_ = Request::kNone;
  std::unique_ptr<RunMetrics> run_metrics_;  // While a trainer lives.
  TrainerRun* trainer_ = nullptr;            // The core's.
  AgentCore core_;
};

}  // namespace normlab::agent
