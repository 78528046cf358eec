#include <fmt/format.h>

#include <algorithm>
#include <variant>

#include "coordinator/engine/attempts.h"
#include "coordinator/engine/handlers.h"

// What ranks say, and what it makes of their run.
namespace normlab::engine {
namespace {

/// One report of a rank of the current attempt.
struct Said {
  Transaction& tx;
  Run& run;
  const WorkerReport& command;

  int rank() const { return command.attempt.rank; }
  std::string actor() const { return WorkerActor(command.worker); }
  std::string Subject() const { return fmt::format("rank {} on {}", rank(), command.worker.name); }
  void Keep(int64_t step, HistoryKind kind, const std::string& payload) const {
    tx.changes.history.push_back({run.id, step, kind, run.attempt, command.time, payload});
  }
};

/// Steps after `last_step` will be done again: what they reported is void.
void RollBack(Progress& progress, int64_t last_step) {
  if (progress.step > last_step) {
    progress.step = last_step;
    progress.last_layers.clear();
  }
  if (progress.eval && progress.eval->step > last_step) progress.eval.reset();
  if (progress.checkpoint && progress.checkpoint->step > last_step) progress.checkpoint.reset();
  progress.analysis_steps.erase(progress.analysis_steps.upper_bound(last_step), progress.analysis_steps.end());
  progress.diverged = false;
}

/// With what the attempt is made, from the words of its rank 0.
AttemptEnvironment EnvironmentOf(const Said& said, const RankStarted& report) {
  const WorkerInfo& info = said.tx.state.workers.at(said.command.worker).info;
  return {.started = report.payload,
          .worker_build = info.build,
          .worker_host = info.host,
          .coordinator_build = said.tx.options.build,
          .world_size = static_cast<int>(said.run.gang.size())};
}

void Take(const Said& said, const RendezvousOpen& report) {
  Run& run = said.run;
  if (said.rank() != 0 || report.address == run.rendezvous || IsEnding(run)) return;
  if (!run.rendezvous.empty()) {
    LoseAttempt(said.tx, run, Cause::kTrainerFailed, said.actor(),
                fmt::format("{} opened a second rendezvous at {} after the one at {}: its trainer was started twice",
                            said.Subject(), report.address, run.rendezvous));
    return;
  }
  run.rendezvous = report.address;
  said.tx.Touch(run);
  for (int rank = 1; rank < static_cast<int>(run.gang.size()); ++rank) {
    if (run.ranks[rank] == RankState::kHeld) StartRank(said.tx, run, rank);
  }
}

void Take(const Said& said, const RankStarted& report) {
  Run& run = said.run;
  if (run.ranks[said.rank()] != RankState::kSent) return;
  run.ranks[said.rank()] = RankState::kStarted;
  if (said.rank() == 0) {
    RollBack(run.progress, report.first_step - 1);
    said.tx.changes.truncations.push_back({run.id, report.first_step - 1});
    run.environment = EnvironmentOf(said, report);
    // Read and taken: later attempts go on from what this one makes of it.
    run.resume_checkpoint.clear();
  }
  said.tx.Touch(run);
  const bool all_started =
      std::all_of(run.ranks.begin(), run.ranks.end(), [](RankState rank) { return rank == RankState::kStarted; });
  if (all_started && run.state == RunState::kStarting) {
    said.tx.Move(run, RunEvent::kAllRanksStarted, said.actor(),
                 fmt::format("attempt {} started from step {} on {} of {} ranks", run.attempt, run.progress.step + 1,
                             run.gang.size(), run.gang.size()));
    said.tx.changes.events.back().environment = run.environment;
  }
}

// After a restart of the coordinator a worker says again what was stored and not yet acknowledged: what is older than
// what is known must not take its place.

void Take(const Said& said, const StepReported& report) {
  Progress& progress = said.run.progress;
  if (said.rank() != 0 || report.step <= progress.step) return;
  progress.step = report.step;
  progress.loss = report.loss;
  progress.lr = report.lr;
  progress.tokens_per_second = report.tokens_per_second;
  progress.tokens = report.tokens;
  said.tx.Touch(said.run);
  said.Keep(report.step, HistoryKind::kStep, report.payload);
}

void Take(const Said& said, const LayersReported& report) {
  if (said.rank() != 0) return;
  if (report.step >= said.run.progress.step) said.run.progress.last_layers = report.payload;
  said.tx.Touch(said.run);
  said.Keep(report.step, HistoryKind::kLayers, report.payload);
}

void Take(const Said& said, const EvalReported& report) {
  std::optional<EvalResult>& known = said.run.progress.eval;
  if (said.rank() != 0) return;
  if (!known || report.eval.step >= known->step) known = report.eval;
  said.tx.Touch(said.run);
  said.Keep(report.eval.step, HistoryKind::kEval, report.payload);
}

void Take(const Said& said, const CheckpointReported& report) {
  std::optional<Checkpoint>& known = said.run.progress.checkpoint;
  if (said.rank() != 0 || (known && report.checkpoint.step < known->step)) return;
  known = report.checkpoint;
  said.tx.Touch(said.run);
}

void Take(const Said& said, const LogReported& report) {
  said.tx.changes.logs.push_back({.run = said.run.id,
                                  .time = said.command.time,
                                  .attempt = said.run.attempt,
                                  .rank = said.rank(),
                                  .payload = report.payload,
                                  .incarnation = said.command.incarnation,
                                  .sequence = said.command.sequence});
}

void Take(const Said& said, const TrainerFinished& report) {
  Run& run = said.run;
  if (said.rank() != 0) return;
  run.outcome = Outcome::kFinished;
  run.progress.step = report.step;
  run.progress.diverged = report.diverged;
  said.tx.Touch(run);
}

void Take(const Said& said, const TrainerStopped& report) {
  Run& run = said.run;
  if (run.outcome == Outcome::kFinished) return;
  if (said.rank() == 0) {
    run.outcome = Outcome::kStopped;
    // 0 if it was asked to end before it had loaded its checkpoint.
    run.progress.step = std::max(run.progress.step, report.step);
    said.tx.Touch(run);
  }
  if (run.state == RunState::kStopping) return;
  AskToStop(said.tx, run, StopIntent::kRequeue, said.actor(),
            fmt::format("{} was stopped by its worker after step {}", said.Subject(), report.step), Cause::kDrained);
}

void Take(const Said& said, const TrainerFailed& report) {
  Run& run = said.run;
  if (run.outcome == Outcome::kFinished) return;
  const std::string message = report.message.empty()
                                  ? fmt::format("trainer failed after step {} and gave no message", report.step)
                                  : report.message;
  if (run.state == RunState::kStopping) {
    run.outcome_detail = message;
    said.tx.Touch(run);
  } else if (report.retryable) {
    LoseAttempt(said.tx, run, Cause::kTrainerFailed, said.actor(),
                fmt::format("{} failed after step {}: {}", said.Subject(), report.step, message));
  } else {
    FailForGood(said.tx, run, said.actor(), message);
  }
}

std::string ExitText(const Said& said, const TrainerExited& report) {
  const std::string detail = report.detail.empty() ? "" : ": " + report.detail;
  const int64_t step = said.run.progress.step;
  if (report.was_stuck) {
    return fmt::format("{} made no progress after step {} and was ended{}", said.Subject(), step, detail);
  }
  if (report.signal) {
    return fmt::format("{} was ended by signal {} after step {}{}", said.Subject(), *report.signal, step, detail);
  }
  if (report.code) {
    return fmt::format("{} exited with code {} after step {}{}", said.Subject(), *report.code, step, detail);
  }
  return fmt::format("{} could not be started{}", said.Subject(), detail);
}

Cause CauseOf(const TrainerExited& report) {
  if (report.was_stuck) return Cause::kTrainerStuck;
  return report.code || report.signal ? Cause::kTrainerDied : Cause::kNotStarted;
}

void Take(const Said& said, const TrainerExited& report) {
  Release(said.tx, said.command.worker, said.command.attempt);
  EndRank(
      said.tx, said.run, said.rank(),
      {.is_clean = report.code == 0, .cause = CauseOf(report), .actor = said.actor(), .words = ExitText(said, report)});
}

/// One acknowledgement covers all before it, so that a burst of reports needs only the last.
void Acknowledge(Transaction& tx, const WorkerReport& command, int64_t sequence) {
  if (!tx.changes.messages.empty()) {
    Outgoing& last = tx.changes.messages.back();
    auto* ack = std::get_if<SendAck>(&last.command);
    if (ack != nullptr && last.worker == command.worker && last.incarnation == command.incarnation) {
      ack->sequence = std::max(ack->sequence, sequence);
      return;
    }
  }
  tx.changes.messages.push_back({command.worker, command.incarnation, SendAck{sequence}});
}

}  // namespace

absl::StatusOr<Reply> Handle(Transaction& tx, const WorkerReport& command) {
  const auto found = tx.state.workers.find(command.worker);
  if (found == tx.state.workers.end() || found->second.incarnation != command.incarnation) {
    Acknowledge(tx, command, command.sequence);
    return Done();
  }
  Worker& worker = found->second;
  const bool is_repeated = command.sequence <= worker.last_sequence;
  worker.last_sequence = std::max(worker.last_sequence, command.sequence);
  Acknowledge(tx, command, worker.last_sequence);
  if (is_repeated) return Done();
  if (Run* run = FindCurrent(tx.state, command.worker, command.attempt)) {
    const Said said = {tx, *run, command};
    std::visit([&said](const auto& report) { Take(said, report); }, command.report);
  } else if (std::holds_alternative<TrainerExited>(command.report)) {
    Release(tx, command.worker, command.attempt);
  }
  return Done();
}

}  // namespace normlab::engine
