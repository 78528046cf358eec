#include "worker/agent/core.h"

#include <algorithm>
#include <utility>

#include "fmt/format.h"
#include "spdlog/spdlog.h"

namespace normlab::agent {
namespace {

constexpr absl::Duration kTellTimeout = absl::Seconds(10);
constexpr absl::Duration kCloseTimeout = absl::Seconds(2);

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

std::string Describe(const v1::AttemptRef& ref) {
  return fmt::format("{} attempt {} rank {}", ref.run_id(), ref.attempt(), ref.rank());
}

v1::TrainerEvent FailedForGood(const std::string& message) {
  v1::TrainerEvent event;
  event.mutable_failed()->set_message(message);
  event.mutable_failed()->set_retryable(false);
  return event;
}

/// Reports over the whole gang are rank 0's; a trainer that sends them from every rank would count each step twice.
bool IsForRankZeroOnly(const v1::TrainerEvent& event) {
  return event.has_step() || event.has_layers() || event.has_eval();
}

}  // namespace

AgentCore::AgentCore(CoreOptions options, StreamOpener open_stream, const Clock* clock, TrainerHost* host)
    : stop_grace_(options.stop_grace),
      clock_(clock),
      host_(host),
      session_(std::move(options.session), std::move(open_stream), clock, this) {}

std::optional<absl::Status> AgentCore::Step(Request request) {
  has_news_ = false;
  session_.Step();
  StepDrain(request);  // Before the start that has come with it.
  StartWanted();
  if (session_.lease().IsOver(clock_->SteadyNow()) && current_) {
    current_->trainer->Stop(stop_grace_, "the lease is over: the coordinator has not answered");
  }
  StepTrainer();
  return Result(request);
}

absl::Time AgentCore::NextDeadline() const {
  if (has_news_) return absl::InfinitePast();
  absl::Time deadline = session_.NextDeadline();
  if (current_) {
    deadline = std::min(deadline, current_->trainer->NextDeadline());
    if (session_.lease().expires_at() && !current_->trainer->is_stopping()) {
      deadline = std::min(deadline, *session_.lease().expires_at());
    }
  }
  if (told_by_) deadline = std::min(deadline, *told_by_);
  if (closed_by_) deadline = std::min(deadline, *closed_by_);
  return deadline;
}

std::optional<AttemptKey> AgentCore::Running() const { return attempts_.current(); }

void AgentCore::OnStart(const v1::StartAttempt& start) {
  const auto key = AttemptKey::FromProto(start.attempt());
  if (!key) {
    spdlog::error("the coordinator asked to start '{}', which is no attempt", Describe(start.attempt()));
    return;
  }
  switch (attempts_.Decide(*key)) {
    case StartDecision::kLives:
    case StartDecision::kEnded:
      spdlog::debug("{} is not started again", key->ToString());
      return;
    case StartDecision::kBusy:
      return ReportNotStarted(*key, fmt::format("this worker runs {}", attempts_.current()->ToString()));
    case StartDecision::kStart:
      break;
  }
  if (wanted_) {
    const AttemptKey other = *AttemptKey::FromProto(wanted_->attempt());
    if (other != *key) ReportNotStarted(*key, fmt::format("this worker is about to run {}", other.ToString()));
    return;
  }
  wanted_ = start;
}

void AgentCore::StartWanted() {
  if (!wanted_) return;
  const v1::StartAttempt start = *std::exchange(wanted_, std::nullopt);
  const AttemptKey key = *AttemptKey::FromProto(start.attempt());
  // An agent that stood still finds starts from before: by now the attempt may have been given to others.
  if (session_.lease().IsOver(clock_->SteadyNow())) return ReportNotStarted(key, "the lease is over");
  if (is_draining_) {
    v1::TrainerEvent stopped;
    stopped.mutable_stopped();
    session_.Report(key.ToProto(), std::move(stopped));
    return ReportNotStarted(key, "this worker is ending");
  }
  // The stream that it came on has ended. The next one's hello says, or said in this very step, that it does not run;
  // whoever still wants it says so again.
  if (!session_.is_welcome()) return;
  auto trainer = host_->StartTrainer(key, start);
  if (!trainer.ok()) {
    const std::string why(trainer.status().message());
    if (!absl::IsUnavailable(trainer.status()) && !absl::IsPermissionDenied(trainer.status())) {
      session_.Report(key.ToProto(), FailedForGood(why));
    }
    return ReportNotStarted(key, why);
  }
  attempts_.Begin(key);
  current_.emplace(Current{.key = key, .trainer = *std::move(trainer)});
}

void AgentCore::OnStop(const v1::StopAttempt& stop) {
  const auto key = AttemptKey::FromProto(stop.attempt());
  if (!key) {
    spdlog::error("the coordinator asked to stop '{}', which is no attempt", Describe(stop.attempt()));
    return;
  }
  if (current_ && current_->key == *key) return current_->trainer->Stop(FromProto(stop.grace()), stop.reason());
  if (wanted_ && *AttemptKey::FromProto(wanted_->attempt()) == *key) wanted_.reset();
  // Its start was lost with an earlier stream, or has just come: without this report the coordinator would wait for its
  // end for ever.
  if (!attempts_.HasEnded(*key))
    ReportNotStarted(*key, fmt::format("stopped before it was started: {}", stop.reason()));
}

void AgentCore::OnFenced(const v1::AttemptRef& attempt) {
  const auto key = AttemptKey::FromProto(attempt);
  if (key && current_ && current_->key == *key) {
    current_->trainer->Stop(absl::ZeroDuration(), "fenced: the coordinator has given the run to another attempt");
  }
}

void AgentCore::StepTrainer() {
  if (!current_) return;
  for (v1::TrainerEvent& event : current_->trainer->Step()) ReportEvent(std::move(event));
  const auto& exit = current_->trainer->exit();
  if (!exit) return;
  spdlog::info("{} has ended: {}", current_->key.ToString(), exit->detail());
  session_.Report(current_->key.ToProto(), *exit);
  has_news_ = true;
  attempts_.End(current_->key);
  host_->OnEnd(current_->key);
  current_.reset();
}

void AgentCore::ReportEvent(v1::TrainerEvent event) {
  if (current_->key.rank != 0 && IsForRankZeroOnly(event)) return;
  host_->OnEvent(event);
  session_.Report(current_->key.ToProto(), std::move(event));
  has_news_ = true;
}

void AgentCore::ReportNotStarted(const AttemptKey& key, const std::string& why) {
  spdlog::warn("{} is not started: {}", key.ToString(), why);
  has_news_ = true;
  host_->OnNotStarted(key, why);
  v1::TrainerExit exit;
  exit.set_detail(fmt::format("not started: {}", why));
  session_.Report(key.ToProto(), std::move(exit));
  attempts_.End(key);
}

void AgentCore::StepDrain(Request request) {
  if (request == Request::kNone) return;
  if (!is_draining_) {
    spdlog::info("ending: {}", current_ ? "the trainer checkpoints first" : "nothing runs");
    is_draining_ = true;
    session_.Drain();
  }
  if (!current_) return;
  current_->trainer->Stop(request == Request::kKill ? absl::ZeroDuration() : stop_grace_, "the worker is asked to end");
}

std::optional<absl::Status> AgentCore::Result(Request request) {
  if (request == Request::kNone || current_) return std::nullopt;
  if (request == Request::kKill) return absl::AbortedError("killed: asked twice to end");
  const absl::Time now = clock_->SteadyNow();
  const size_t pending = session_.reports().pending();
  if (pending > 0) {
    if (!told_by_) told_by_ = now + kTellTimeout;
    if (now < *told_by_) return std::nullopt;
    return absl::UnavailableError(fmt::format("{} reports were not acknowledged by the coordinator within {}", pending,
                                              absl::FormatDuration(kTellTimeout)));
  }
  if (!closed_by_) {
    closed_by_ = now + kCloseTimeout;
    session_.Close();
  }
  if (!session_.is_closed() && now < *closed_by_) return std::nullopt;
  return absl::OkStatus();
}

}  // namespace normlab::agent
