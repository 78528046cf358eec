#include "tests/simulation/trainers.h"

#include <fmt/format.h>

#include <algorithm>

namespace normlab::simulation {

Process::Process(Timeline& timeline, Dice dice, Fabric& fabric, Host& host, const Clock& clock, agent::AttemptKey key,
                 const v1::StartAttempt& start)
    : timeline_(timeline), dice_(dice), fabric_(fabric), host_(host), clock_(clock), key_(key), start_(start) {
  step_time_ = dice_.Between(absl::Milliseconds(200), absl::Milliseconds(1500));
}

void Process::Begin() {
  Fabric::Attempt& mine = attempt();
  mine.ranks.resize(static_cast<size_t>(start_.world_size()));
  mine.ranks[static_cast<size_t>(key_.rank)] = this;
  Plan(dice_.Between(absl::Milliseconds(50), absl::Milliseconds(800)));
}

void Process::Plan(absl::Duration delay) {
  timeline_.After(delay, [self = shared_from_this()] { self->Act(); });
}

void Process::Act() {
  if (exit_) return;
  if (host_.IsFrozen()) return Plan(absl::Milliseconds(500));
  switch (phase_) {
    case Phase::kLoading:
      return Load();
    case Phase::kMeeting:
      return Meet();
    case Phase::kWorking:
      return key_.rank == 0 ? Work() : Follow();
    case Phase::kLeaving:
      return Exit(exit_code_);
  }
}

void Process::Say(v1::TrainerEvent event) {
  output_.push_back(std::move(event));
  host_.OnOutput();
}

void Process::Load() {
  phase_ = Phase::kMeeting;
  if (key_.rank == 0) {
    if (start_.world_size() > 1) {
      attempt().rendezvous = fmt::format("host:{}", ++fabric_.num_rendezvous);
      v1::TrainerEvent event;
      event.mutable_rendezvous_open()->set_address(attempt().rendezvous);
      Say(std::move(event));
    }
    for (const Fabric::Saved& saved : fabric_.checkpoints[key_.run]) {
      if (saved.attempt >= start_.resume_from_attempt()) step_ = saved.step;
    }
  } else if (start_.rendezvous() != attempt().rendezvous) {
    return Fail("nobody listens at " + start_.rendezvous());
  }
  Plan(absl::Milliseconds(100));
}

bool Process::AllAlive() {
  const auto& ranks = attempt().ranks;
  return std::all_of(ranks.begin(), ranks.end(), [](const Process* rank) { return rank != nullptr; });
}

/// Ranks tell each other with every step whether one of them was asked to stop.
bool Process::IsStopAgreed() {
  const auto& ranks = attempt().ranks;
  return std::any_of(ranks.begin(), ranks.end(),
                     [](const Process* rank) { return rank != nullptr && rank->is_stopping(); });
}

void Process::Meet() {
  if (is_stopping()) {
    // Asked to end before there was anything to save.
    v1::TrainerEvent event;
    event.mutable_stopped();
    attempt().has_stopped = attempt().has_stopped || key_.rank == 0;
    Say(std::move(event));
    phase_ = Phase::kLeaving;
    return Plan(absl::Milliseconds(20));
  }
  if (!AllAlive()) return Plan(absl::Milliseconds(200));
  v1::TrainerEvent event;
  event.mutable_started()->set_first_step(step_ + 1);
  event.mutable_started()->set_steps(start_.spec().train().steps());
  if (key_.rank == 0) attempt().first_step = step_ + 1;
  Say(std::move(event));
  phase_ = Phase::kWorking;
  Plan(step_time_);
}

void Process::Save() {
  fabric_.checkpoints[key_.run].insert({step_, key_.attempt});
  v1::TrainerEvent event;
  event.mutable_checkpoint()->set_step(step_);
  event.mutable_checkpoint()->set_name(fmt::format("step-{}.attempt-{}", step_, key_.attempt));
  Say(std::move(event));
}

void Process::Finish() {
  attempt().has_finished = true;
  v1::TrainerEvent event;
  event.mutable_finished()->set_step(step_);
  Say(std::move(event));
  phase_ = Phase::kLeaving;
  Plan(dice_.Between(absl::Milliseconds(10), absl::Milliseconds(500)));
}

void Process::Work() {
  if (!AllAlive()) return Fail("a peer is gone");
  if (IsStopAgreed()) {
    Save();
    attempt().has_stopped = true;
    v1::TrainerEvent event;
    event.mutable_stopped()->set_step(step_);
    Say(std::move(event));
    phase_ = Phase::kLeaving;
    return Plan(dice_.Between(absl::Milliseconds(10), absl::Milliseconds(500)));
  }
  const int64_t steps = start_.spec().train().steps();
  if (step_ < steps) {
    host_.OnWork(*this);
    ++step_;
    attempt().steps.insert(step_);
    v1::TrainerEvent event;
    event.mutable_step()->set_step(step_);
    Say(std::move(event));
    if (dice_.Chance(0.2)) {
      v1::TrainerEvent log;
      log.mutable_log()->set_text(fmt::format("line {}", ++fabric_.num_log_lines));
      Say(std::move(log));
    }
    if (step_ % 3 == 0 || step_ == steps) Save();
  }
  if (step_ == steps) return Finish();
  Plan(step_time_);
}

void Process::Follow() {
  const Fabric::Attempt& mine = attempt();
  if (mine.has_finished || mine.has_stopped) {
    phase_ = Phase::kLeaving;
    return Plan(absl::Milliseconds(20));
  }
  if (mine.ranks[0] == nullptr) return Fail("rank 0 is gone");
  Plan(absl::Milliseconds(300));
}

void Process::Fail(const std::string& message) {
  if (dice_.Chance(0.7)) {
    v1::TrainerEvent event;
    event.mutable_failed()->set_message(message);
    event.mutable_failed()->set_step(step_);
    event.mutable_failed()->set_retryable(true);
    Say(std::move(event));
  }
  phase_ = Phase::kLeaving;
  exit_code_ = 1;
  // Also a process that has said its last word takes a while to end.
  Plan(dice_.Between(absl::Milliseconds(10), absl::Seconds(2)));
}

void Process::Exit(int code) {
  v1::TrainerExit exit;
  exit.set_code(code);
  Leave(std::move(exit));
}

void Process::Die(int signal) {
  if (exit_) return;
  v1::TrainerExit exit;
  exit.set_signal(signal);
  Leave(std::move(exit));
}

void Process::Leave(v1::TrainerExit exit) {
  exit_ = std::move(exit);
  attempt().ranks[static_cast<size_t>(key_.rank)] = nullptr;
  host_.OnGone(*this);
  host_.OnOutput();
}

void Process::Stop(absl::Duration grace) {
  if (exit_) return;
  const absl::Time kill_at = clock_.SteadyNow() + grace;
  if (!kill_at_ || kill_at < *kill_at_) kill_at_ = kill_at;
  if (grace <= absl::ZeroDuration()) Die(9);
}

}  // namespace normlab::simulation
