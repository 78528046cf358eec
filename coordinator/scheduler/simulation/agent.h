#pragma once

#include <absl/time/time.h>

#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/engine/command.h"
#include "coordinator/engine/effect.h"

// A worker of the simulation: the agent's side of the protocol, and trainers that take a step a round.
namespace normlab::simulation {

/// All randomness of one simulation.
class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  bool Chance(double probability) { return std::uniform_real_distribution<>(0, 1)(engine_) < probability; }
  /// 0 to n - 1.
  int Below(int n) { return std::uniform_int_distribution<>(0, n - 1)(engine_); }

 private:
  std::mt19937_64 engine_;
};

/// What trainers know of each other through their own connections.
struct Fabric {
  std::set<engine::AttemptRef> alive;
  std::set<std::pair<RunId, int>> finished;  // Run and attempt of which rank 0 said so.
  std::set<std::pair<RunId, int>> stopped;
};

struct Trainer {
  int world_size = 1;
  bool has_opened = false;
  bool has_started = false;
  bool is_stopping = false;
  int64_t step = 0;
};

class Agent {
 public:
  Agent(std::string name, engine::WorkerInfo info) : id_{std::move(name)}, info_(std::move(info)) {}

  /// One round: says hello if there is no session, renews the lease, moves the trainers.
  void Step(absl::Time now, double crash_probability, Fabric& fabric, Dice& dice);
  /// A message of the coordinator.
  void Receive(const engine::WorkerCommand& command, Fabric& fabric);

  /// The process dies and a new one starts: trainers die with it, what was not acknowledged is forgotten.
  void Restart(Fabric& fabric);
  /// The stream breaks. Returns what was on its way to the coordinator.
  std::deque<engine::Command> Cut();
  void Drain();
  /// Nothing happens on this host for so many rounds.
  void Freeze(int rounds) { frozen_rounds_ = rounds; }

  const WorkerId& id() const { return id_; }
  std::string incarnation() const { return std::to_string(incarnation_); }
  bool is_connected() const { return is_connected_; }
  bool is_draining() const { return is_draining_; }
  size_t num_trainers() const { return trainers_.size(); }
  std::deque<engine::Command> uplink;

 private:
  void Hello(absl::Time now);
  /// The oldest hello or heartbeat is answered: the lease counts from its sending.
  void Renew();
  void Say(const engine::AttemptRef& ref, engine::Report report);
  void End(const engine::AttemptRef& ref, engine::TrainerExited exit, Fabric& fabric);
  void Start(const engine::SendStart& start, Fabric& fabric);
  void StepTrainer(const engine::AttemptRef& ref, Trainer& trainer, Fabric& fabric, Dice& dice);
  void StopTrainer(const engine::AttemptRef& ref, const Trainer& trainer, Fabric& fabric);
  void Crash(const engine::AttemptRef& ref, Fabric& fabric, Dice& dice);
  void KillAll(Fabric& fabric);

  WorkerId id_;
  engine::WorkerInfo info_;
  int incarnation_ = 1;
  bool is_connected_ = false;
  bool is_draining_ = false;
  int frozen_rounds_ = 0;
  absl::Duration lease_;
  absl::Time lease_until_ = absl::InfinitePast();
  std::deque<absl::Time> heartbeats_;  // Sent and not answered.
  int64_t sequence_ = 0;
  std::deque<engine::WorkerReport> unacknowledged_;
  std::map<engine::AttemptRef, Trainer> trainers_;
  std::set<engine::AttemptRef> ended_;  // In this incarnation: never started again.
  absl::Time now_;
};

}  // namespace normlab::simulation
