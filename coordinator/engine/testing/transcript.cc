#include "coordinator/engine/testing/transcript.h"

#include <absl/strings/str_join.h>
#include <fmt/format.h>

#include <variant>

#include "coordinator/engine/labels.h"

namespace normlab::engine {
namespace {

std::string Refs(const std::vector<AttemptRef>& refs) {
  return absl::StrJoin(refs, ",", [](std::string* out, const AttemptRef& ref) { *out += Text(ref); });
}

struct MessageText {
  bool is_verbose;

  std::string operator()(const SendWelcome& welcome) const {
    return welcome.fenced.empty() ? "welcome" : "welcome, fenced " + Refs(welcome.fenced);
  }
  std::string operator()(const SendLeaseRenewed&) const { return is_verbose ? "lease renewed" : ""; }
  std::string operator()(const SendAck& ack) const { return is_verbose ? fmt::format("ack {}", ack.sequence) : ""; }
  std::string operator()(const SendStart& start) const {
    std::string text = fmt::format("start {} of {}", Text(start.attempt), start.world_size);
    if (start.resume_from_attempt > 1) text += fmt::format(", checkpoints from attempt {}", start.resume_from_attempt);
    if (!start.resume_checkpoint.empty()) text += ", from checkpoint " + start.resume_checkpoint;
    if (!start.rendezvous.empty()) text += ", meet at " + start.rendezvous;
    return text;
  }
  std::string operator()(const SendStop& stop) const {
    return fmt::format("stop {} within {}: {}", Text(stop.attempt), absl::FormatDuration(stop.grace), stop.reason);
  }
};

const char* Name(HistoryKind kind) {
  constexpr const char* kNames[] = {"", "step", "layers", "eval"};
  return kNames[static_cast<int>(kind)];
}

const char* Name(RankState rank) {
  constexpr const char* kNames[] = {"held", "sent", "started", "ended"};
  return kNames[static_cast<int>(rank)];
}

const char* Name(Cause cause) {
  constexpr const char* kNames[] = {"",
                                    "user",
                                    "preempted",
                                    "drained",
                                    "worker lost",
                                    "worker restarted",
                                    "trainer failed",
                                    "trainer died",
                                    "trainer stuck",
                                    "not started",
                                    "finished"};
  return kNames[static_cast<int>(cause)];
}

std::string GangText(const Run& run) {
  std::string text;
  for (size_t rank = 0; rank < run.gang.size(); ++rank) {
    text += fmt::format(" {}:{}", run.gang[rank].name, Name(run.ranks[rank]));
  }
  return text;
}

}  // namespace

std::string Text(const AttemptRef& ref) { return fmt::format("{}#{}/{}", ref.run.ToString(), ref.attempt, ref.rank); }

std::string Text(const Reply& reply) {
  if (const auto* created = std::get_if<ExperimentCreated>(&reply)) {
    return fmt::format("{}{}\n", created->id.ToString(), created->already_existed ? " already existed" : "");
  }
  if (const auto* cordoned = std::get_if<WorkerCordoned>(&reply))
    return cordoned->changed ? "changed\n" : "unchanged\n";
  std::string text;
  if (const auto* changed = std::get_if<RunsChanged>(&reply)) {
    for (const RunChange& change : changed->changes) {
      text += fmt::format("{} {} -> {}: {}\n", change.run.ToString(), engine::Name(change.before),
                          engine::Name(change.after), change.note);
    }
  }
  return text;
}

std::string Text(const Changes& changes, bool is_verbose) {
  std::string text;
  for (const EventRecord& event : changes.events) {
    text += fmt::format("{} {} #{} by {}: {}\n", event.run.ToString(), engine::Name(event.state), event.attempt,
                        event.actor, event.reason);
    if (event.cause != Cause::kNone && event.cause != Cause::kUser && event.cause != Cause::kFinished) {
      text.insert(text.size() - 1, fmt::format(" [{}]", Name(event.cause)));
    }
  }
  for (const Changes::Truncation& truncation : changes.truncations) {
    text += fmt::format("{} history after step {} is void\n", truncation.run.ToString(), truncation.after_step);
  }
  for (const HistoryRecord& record : changes.history) {
    text += fmt::format("{} history: {} of step {} in attempt {}\n", record.run.ToString(), Name(record.kind),
                        record.step, record.attempt);
  }
  for (const LogRecord& record : changes.logs) {
    text += fmt::format("{} log of rank {}: {}\n", record.run.ToString(), record.rank, record.payload);
  }
  for (const Outgoing& message : changes.messages) {
    const std::string words = std::visit(MessageText{is_verbose}, message.command);
    if (!words.empty()) text += fmt::format("to {}: {}\n", message.worker.name, words);
  }
  return text;
}

std::string RunsText(const State& state, absl::Time start) {
  std::string text;
  for (const auto& [id, run] : state.runs) {
    text += fmt::format("{} {} #{}{}, {} failures, step {}", id.ToString(), engine::Name(run.state), run.attempt,
                        GangText(run), run.failures, run.progress.step);
    if (run.progress.checkpoint) text += ", checkpoint " + run.progress.checkpoint->name;
    if (run.is_held) text += ", held";
    if (run.not_before) text += ", not before " + absl::FormatDuration(*run.not_before - start);
    text += ": " + run.reason + "\n";
  }
  return text;
}

std::string WorkersText(const State& state) {
  std::string text;
  for (const auto& [id, worker] : state.workers) {
    text += fmt::format("{} {}", id.name, worker.has_lease ? worker.attempt ? Text(*worker.attempt) : "free" : "lost");
    if (worker.has_lease && !worker.is_connected) text += ", unreachable";
    if (worker.is_draining) text += ", draining";
    if (worker.is_cordoned) text += ", cordoned";
    text += "\n";
  }
  return text;
}

std::string OwnersText(const State& state, const Policy& policy, absl::Time now) {
  std::string text;
  for (const auto& [name, owner] : state.owners) {
    text += fmt::format("{} has {} workers and {} queued runs, usage {:.1f} worker seconds\n", name, owner.num_workers,
                        owner.num_queued, UsageAt(owner, now, policy.usage_half_life));
  }
  return text;
}

}  // namespace normlab::engine
