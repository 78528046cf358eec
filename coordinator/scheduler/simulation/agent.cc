#include "coordinator/scheduler/simulation/agent.h"

#include <algorithm>

namespace normlab::simulation {
namespace {

using engine::AttemptRef;

constexpr int64_t kSteps = 6;

bool AllAlive(const Fabric& fabric, AttemptRef ref, int world_size) {
  for (ref.rank = 0; ref.rank < world_size; ++ref.rank) {
    if (!fabric.alive.contains(ref)) return false;
  }
  return true;
}

}  // namespace

void Agent::Say(const AttemptRef& ref, engine::Report report) {
  const engine::WorkerReport message = {id_, incarnation(), ++sequence_, ref, now_, std::move(report)};
  unacknowledged_.push_back(message);
  if (is_connected_) uplink.push_back(message);
}

void Agent::Hello(absl::Time now) {
  engine::WorkerHello hello = {.worker = id_, .incarnation = incarnation(), .info = info_};
  for (const auto& [ref, trainer] : trainers_) hello.running.push_back(ref);
  is_connected_ = true;
  uplink.push_back(hello);
  heartbeats_ = {now};
  if (is_draining_) uplink.push_back(engine::WorkerDraining{id_, incarnation()});
  for (const engine::WorkerReport& report : unacknowledged_) uplink.push_back(report);
}

void Agent::End(const AttemptRef& ref, engine::TrainerExited exit, Fabric& fabric) {
  trainers_.erase(ref);
  ended_.insert(ref);
  fabric.alive.erase(ref);
  Say(ref, std::move(exit));
}

void Agent::Start(const engine::SendStart& start, Fabric& fabric) {
  if (trainers_.contains(start.attempt) || ended_.contains(start.attempt)) return;
  trainers_[start.attempt] = {.world_size = start.world_size};
  fabric.alive.insert(start.attempt);
}

void Agent::Renew() {
  if (heartbeats_.empty()) return;
  lease_until_ = std::max(lease_until_, heartbeats_.front() + lease_);
  heartbeats_.pop_front();
}

void Agent::Receive(const engine::WorkerCommand& command, Fabric& fabric) {
  const auto kill = [&](const AttemptRef& ref) {
    if (trainers_.contains(ref)) End(ref, {.signal = 9}, fabric);
  };
  if (const auto* welcome = std::get_if<engine::SendWelcome>(&command)) {
    lease_ = welcome->lease;
    Renew();
    for (const AttemptRef& ref : welcome->fenced) kill(ref);
  } else if (std::holds_alternative<engine::SendLeaseRenewed>(command)) {
    Renew();
  } else if (const auto* start = std::get_if<engine::SendStart>(&command)) {
    Start(*start, fabric);
  } else if (const auto* stop = std::get_if<engine::SendStop>(&command)) {
    if (stop->grace == absl::ZeroDuration()) return kill(stop->attempt);
    const auto trainer = trainers_.find(stop->attempt);
    if (trainer != trainers_.end()) trainer->second.is_stopping = true;
  } else if (const auto* ack = std::get_if<engine::SendAck>(&command)) {
    while (!unacknowledged_.empty() && unacknowledged_.front().sequence <= ack->sequence) unacknowledged_.pop_front();
  }
}

void Agent::KillAll(Fabric& fabric) {
  const std::map<AttemptRef, Trainer> trainers = trainers_;
  for (const auto& [ref, trainer] : trainers) End(ref, {.signal = 9}, fabric);
}

void Agent::StopTrainer(const AttemptRef& ref, const Trainer& trainer, Fabric& fabric) {
  if (ref.rank == 0) {
    fabric.stopped.emplace(ref.run, ref.attempt);
    Say(ref, engine::TrainerStopped{trainer.step});
  }
  End(ref, {.code = 0}, fabric);
}

void Agent::Crash(const AttemptRef& ref, Fabric& fabric, Dice& dice) {
  if (dice.Chance(0.5)) Say(ref, engine::TrainerFailed{"simulated", 0, !dice.Chance(0.1)});
  End(ref, {.signal = 11}, fabric);
}

void Agent::StepTrainer(const AttemptRef& ref, Trainer& trainer, Fabric& fabric, Dice& dice) {
  const std::pair<RunId, int> attempt = {ref.run, ref.attempt};
  if (trainer.is_stopping) return StopTrainer(ref, trainer, fabric);
  const bool needs_meeting = trainer.world_size > 1;
  if (ref.rank == 0 && needs_meeting && !trainer.has_opened) {
    trainer.has_opened = true;
    return Say(ref, engine::RendezvousOpen{id_.name + ":" + std::to_string(dice.Below(60000))});
  }
  const bool has_peers = AllAlive(fabric, ref, trainer.world_size);
  if (!trainer.has_started) {
    if (!has_peers) return;
    trainer.has_started = true;
    return Say(ref, engine::RankStarted{1, ""});
  }
  const bool has_ended_well = fabric.finished.contains(attempt) || fabric.stopped.contains(attempt);
  if (ref.rank > 0) {
    if (has_ended_well) return End(ref, {.code = 0}, fabric);
    if (!fabric.alive.contains({ref.run, ref.attempt, 0})) End(ref, {.code = 1, .detail = "rank 0 is gone"}, fabric);
    return;
  }
  if (!has_peers) return End(ref, {.code = 1, .detail = "a peer is gone"}, fabric);
  ++trainer.step;
  Say(ref, engine::StepReported{.step = trainer.step, .payload = "step"});
  if (dice.Chance(0.2)) Say(ref, engine::LogReported{"line"});
  if (trainer.step < kSteps) return;
  fabric.finished.insert(attempt);
  Say(ref, engine::TrainerFinished{trainer.step, false});
  End(ref, {.code = 0}, fabric);
}

void Agent::Step(absl::Time now, double crash_probability, Fabric& fabric, Dice& dice) {
  now_ = now;
  if (frozen_rounds_ > 0) {
    --frozen_rounds_;
    return;
  }
  if (now >= lease_until_) KillAll(fabric);
  if (!is_connected_ && dice.Chance(0.5)) Hello(now);
  if (is_connected_ && dice.Chance(0.5)) {
    heartbeats_.push_back(now);
    uplink.push_back(engine::WorkerHeartbeat{id_, incarnation()});
  }
  const std::map<AttemptRef, Trainer> before = trainers_;
  for (const auto& [ref, unused] : before) {
    if (dice.Chance(crash_probability)) {
      Crash(ref, fabric, dice);
    } else if (dice.Chance(0.7)) {
      StepTrainer(ref, trainers_.at(ref), fabric, dice);
    }
  }
}

void Agent::Restart(Fabric& fabric) {
  for (const auto& [ref, trainer] : trainers_) fabric.alive.erase(ref);
  trainers_.clear();
  ended_.clear();
  unacknowledged_.clear();
  sequence_ = 0;
  is_draining_ = false;
  ++incarnation_;
}

std::deque<engine::Command> Agent::Cut() {
  is_connected_ = false;
  return std::exchange(uplink, {});
}

void Agent::Drain() {
  is_draining_ = true;
  if (is_connected_) uplink.push_back(engine::WorkerDraining{id_, incarnation()});
  for (auto& [ref, trainer] : trainers_) trainer.is_stopping = true;
}

}  // namespace normlab::simulation
