// One trainer as the agent's logic sees it, so that the logic can be driven without processes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "normlab/v1/worker.pb.h"
#include "worker/agent/attempts.h"

namespace normlab::agent {

/// One trainer, from its start to its end. No method blocks.
class Trainer {
 public:
  virtual ~Trainer() = default;

  /// What it said since the last call.
  virtual std::vector<v1::TrainerEvent> Step() = 0;
  /// Set after the Step that saw the end and returned the last event: all of its processes are gone.
  virtual const std::optional<v1::TrainerExit>& exit() const = 0;

  /// Asks it to checkpoint and end within `grace`; 0 kills at once. A second stop can only come earlier.
  virtual void Stop(absl::Duration grace, const std::string& reason) = 0;
  virtual bool is_stopping() const = 0;

  /// When Step has to be called at the latest; steady time.
  virtual absl::Time NextDeadline() const = 0;
};

/// Where trainers come from. Called from within AgentCore::Step.
class TrainerHost {
 public:
  virtual ~TrainerHost() = default;

  /// UNAVAILABLE and PERMISSION_DENIED are this worker's fault: another one may be able to. After any other error the
  /// run would fail everywhere.
  virtual absl::StatusOr<std::unique_ptr<Trainer>> StartTrainer(const AttemptKey& key,
                                                                const v1::StartAttempt& start) = 0;
  /// The trainer said something that is reported.
  virtual void OnEvent(const v1::TrainerEvent& event) = 0;
  /// The trainer is gone; it is destroyed after this call.
  virtual void OnEnd(const AttemptKey& key) = 0;
  virtual void OnNotStarted(const AttemptKey& key, const std::string& why) = 0;
};

}  // namespace normlab::agent
