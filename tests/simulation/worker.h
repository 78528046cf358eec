#pragma once

#include <absl/time/time.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "tests/simulation/coordinator.h"
#include "tests/simulation/link.h"
#include "tests/simulation/observer.h"
#include "tests/simulation/rules.h"
#include "tests/simulation/timeline.h"
#include "tests/simulation/trainers.h"
#include "worker/agent/core.h"

namespace normlab::simulation {

/// One host with one agent: the daemon's own logic, which gets streams, trainers and time from here.
class Worker final : private agent::TrainerHost, private Process::Host {
 public:
  struct Options {
    v1::WorkerInfo info;
    size_t report_bytes_max = 32 << 20;
    absl::Duration stop_grace = absl::Seconds(5);
  };

  Worker(Timeline& timeline, Dice dice, Observer& observer, Rules& rules, Fabric& fabric, Coordinator& coordinator,
         int number, Options options);
  ~Worker() override;

  void Start();
  /// The agent is gone, and its trainer with it; a new one starts after `down`.
  void Crash(absl::Duration down);
  void FreezeAgent(absl::Duration time);
  void FreezeHost(absl::Duration time);
  void KillTrainer();
  /// As SIGTERM; a new agent starts some time after the end.
  void Drain();
  void BreakLink();

  Path& up() { return up_; }
  Path& down() { return down_; }
  const std::string& name() const { return name_; }
  bool is_frozen() const { return is_agent_frozen_ || is_host_frozen_; }
  bool has_trainer() const { return core_ != nullptr && core_->has_trainer(); }
  /// Reports that the coordinator has not acknowledged.
  size_t num_pending() const { return core_ == nullptr ? 0 : core_->session().reports().pending(); }

  /// The agent believes that its trainer may work now. `slack`: so long after the lease's end it may act on it.
  bool HoldsLease(absl::Duration slack) const;

 private:
  class AgentStream;

  absl::StatusOr<std::unique_ptr<agent::Trainer>> StartTrainer(const agent::AttemptKey& key,
                                                               const v1::StartAttempt& start) override;
  void OnEvent(const v1::TrainerEvent&) override {}
  void OnEnd(const agent::AttemptKey& key) override;
  void OnNotStarted(const agent::AttemptKey&, const std::string&) override {}

  bool IsFrozen() const override { return is_host_frozen_; }
  void OnOutput() override { PlanStep(absl::Microseconds(100)); }
  void OnWork(const Process& process) override;
  void OnGone(const Process& process) override;

  void PlanStep(absl::Duration delay);
  void Step();
  void Restart(absl::Duration down);
  void OnMessage(const v1::CoordinatorMessage& message);

  Timeline& timeline_;
  Dice dice_;
  Observer& observer_;
  Rules& rules_;
  Fabric& fabric_;
  Coordinator& coordinator_;
  const int number_;
  const std::string name_;
  const Options options_;
  HostClock clock_;
  Path up_;
  Path down_;

  // One agent.
  int incarnation_ = 0;
  std::unique_ptr<agent::AgentCore> core_;
  agent::AgentCore::Request request_ = agent::AgentCore::Request::kNone;
  std::shared_ptr<Link> link_;  // The newest one.
  std::shared_ptr<Process> process_;
  std::map<int64_t, agent::AttemptKey> finishes_;  // Sequence of the report -> who has finished.
  std::optional<absl::Time> next_step_;
  uint64_t step_token_ = 0;

  bool is_agent_frozen_ = false;
  bool is_host_frozen_ = false;
  uint64_t freeze_token_ = 0;
};

}  // namespace normlab::simulation
