#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "worker/agent/attempts.h"
#include "worker/agent/session.h"
#include "worker/agent/stream.h"
#include "worker/agent/trainer.h"

namespace normlab::agent {

struct CoreOptions {
  SessionOptions session;
  /// Time for a checkpoint when the agent itself is stopped or its lease is over.
  absl::Duration stop_grace = absl::Seconds(30);
};

/// All that the agent decides: which trainer lives, when it has to stop, what the coordinator is told, when the agent
/// may end. No I/O and no waiting of its own, so that the daemon and the simulation run the same code. One thread.
class AgentCore final : private SessionHandler {
 public:
  enum class Request { kNone, kDrain, kKill };

  /// `clock` and `host` must outlive it.
  AgentCore(CoreOptions options, StreamOpener open_stream, const Clock* clock, TrainerHost* host);

  /// Does what is due. With kDrain nothing new is started, the trainer checkpoints and ends, and its last report is
  /// acknowledged; with kKill the trainer is killed. Set once there is nothing left to do: OK if the trainer has ended
  /// and the coordinator knows; UNAVAILABLE if it could not be told in time; ABORTED after kKill.
  std::optional<absl::Status> Step(Request request);

  /// When Step has to be called at the latest, if nothing arrives before; steady time.
  absl::Time NextDeadline() const;

  const Session& session() const { return session_; }
  bool has_trainer() const { return current_.has_value(); }

 private:
  struct Current {
    AttemptKey key;
    std::unique_ptr<Trainer> trainer;
  };

  std::optional<AttemptKey> Running() const override;
  void OnStart(const v1::StartAttempt& start) override;
  void OnStop(const v1::StopAttempt& stop) override;
  void OnFenced(const v1::AttemptRef& attempt) override;

  /// Starts what was asked for, if nothing that came behind it speaks against it.
  void StartWanted();
  void StepTrainer();
  void StepDrain(Request request);
  void ReportEvent(v1::TrainerEvent event);
  void ReportNotStarted(const AttemptKey& key, const std::string& why);
  std::optional<absl::Status> Result(Request request);

  const absl::Duration stop_grace_;
  const Clock* const clock_;
  TrainerHost* const host_;
  bool is_draining_ = false;
  bool has_news_ = false;                // Reports that wait for the session's next step.
  std::optional<absl::Time> told_by_;    // Draining, and the trainer is gone: until when to wait for acknowledgements.
  std::optional<absl::Time> closed_by_;  // All is said: until when to wait for the stream's end.
  Attempts attempts_;
  std::optional<v1::StartAttempt> wanted_;  // Asked for in this step.
  std::optional<Current> current_;
  Session session_;
};

}  // namespace normlab::agent
