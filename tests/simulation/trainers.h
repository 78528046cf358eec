#pragma once

#include <absl/time/time.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/engine/state.h"
#include "normlab/v1/worker.pb.h"
#include "tests/simulation/dice.h"
#include "tests/simulation/timeline.h"
#include "worker/agent/trainer.h"

namespace normlab::simulation {

class Process;

/// What trainers share beside the coordinator: their own connections, and the file system with checkpoints. Also the
/// truth of what they did, to which the coordinator's view is held.
struct Fabric {
  struct Saved {
    int64_t step = 0;
    int attempt = 0;
    auto operator<=>(const Saved&) const = default;
  };
  struct Attempt {
    std::set<int64_t> steps;    // Done by it.
    int64_t first_step = 0;     // 0: rank 0 has not started.
    bool has_finished = false;  // Rank 0 said so.
    bool has_stopped = false;
    std::string rendezvous;
    std::vector<Process*> ranks;  // That live; null for others.
  };

  std::map<std::pair<RunId, int>, Attempt> attempts;
  std::map<RunId, std::set<Saved>> checkpoints;
  int num_rendezvous = 0;
  int num_log_lines = 0;
};

/// One trainer process of the simulation. It takes steps by itself; the agent's `SimulatedTrainer` is the handle.
class Process : public std::enable_shared_from_this<Process> {
 public:
  /// What its host does for it.
  class Host {
   public:
    virtual ~Host() = default;
    virtual bool IsFrozen() const = 0;
    /// The pipe to the agent has something to read.
    virtual void OnOutput() = 0;
    /// It is about to train a step.
    virtual void OnWork(const Process& process) = 0;
    virtual void OnGone(const Process& process) = 0;
  };

  Process(Timeline& timeline, Dice dice, Fabric& fabric, Host& host, const Clock& clock, agent::AttemptKey key,
          const v1::StartAttempt& start);

  void Begin();
  void Stop(absl::Duration grace);
  /// By a signal, at once.
  void Die(int signal);

  const agent::AttemptKey& key() const { return key_; }
  bool is_alive() const { return !exit_; }
  bool is_stopping() const { return kill_at_.has_value(); }
  absl::Time kill_at() const { return *kill_at_; }
  std::vector<v1::TrainerEvent> TakeOutput() { return std::exchange(output_, {}); }
  const std::optional<v1::TrainerExit>& exit() const { return exit_; }

 private:
  void Plan(absl::Duration delay);
  void Act();
  void Load();
  void Meet();
  void Work();
  void Follow();
  void Say(v1::TrainerEvent event);
  void Fail(const std::string& message);
  void Finish();
  void Save();
  void Exit(int code);
  void Leave(v1::TrainerExit exit);
  Fabric::Attempt& attempt() { return fabric_.attempts[{key_.run, key_.attempt}]; }
  bool AllAlive();
  bool IsStopAgreed();

  enum class Phase { kLoading, kMeeting, kWorking, kLeaving };

  Timeline& timeline_;
  Dice dice_;
  Fabric& fabric_;
  Host& host_;
  const Clock& clock_;
  const agent::AttemptKey key_;
  const v1::StartAttempt start_;
  Phase phase_ = Phase::kLoading;
  absl::Duration step_time_;
  int64_t step_ = 0;
  int exit_code_ = 0;
  std::optional<absl::Time> kill_at_;  // Steady time.
  std::vector<v1::TrainerEvent> output_;
  std::optional<v1::TrainerExit> exit_;
};

/// The agent's hold on a process, which ends with it.
class SimulatedTrainer final : public agent::Trainer {
 public:
  SimulatedTrainer(std::shared_ptr<Process> process, const Clock& clock)
      : process_(std::move(process)), clock_(clock) {}
  ~SimulatedTrainer() override { process_->Die(9); }

  std::vector<v1::TrainerEvent> Step() override {
    if (process_->is_stopping() && clock_.SteadyNow() >= process_->kill_at()) process_->Die(9);
    exit_ = process_->exit();
    return process_->TakeOutput();
  }
  const std::optional<v1::TrainerExit>& exit() const override { return exit_; }
  void Stop(absl::Duration grace, const std::string&) override { process_->Stop(grace); }
  bool is_stopping() const override { return process_->is_stopping(); }
  absl::Time NextDeadline() const override {
    if (exit_) return absl::InfinitePast();
    return process_->is_stopping() ? process_->kill_at() : absl::InfiniteFuture();
  }

 private:
  const std::shared_ptr<Process> process_;
  const Clock& clock_;
  std::optional<v1::TrainerExit> exit_;
};

}  // namespace normlab::simulation
