#include "worker/agent/agent.h"

#include <poll.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "spdlog/spdlog.h"

namespace normlab::agent {
namespace {

constexpr size_t kAttemptFoldersKept = 100;
constexpr absl::Duration kTellTimeout = absl::Seconds(10);
constexpr absl::Duration kCloseTimeout = absl::Seconds(2);
// The gauge of the lease must not be older than this when it is scraped.
constexpr absl::Duration kWaitMax = absl::Seconds(1);

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

Agent::Agent(AgentOptions options, std::shared_ptr<grpc::Channel> channel, const Clock* clock, Metrics* metrics)
    : options_(std::move(options)),
      clock_(clock),
      metrics_(metrics),
      session_(options_.session, std::move(channel), clock, wakeup_, this) {
  metrics_->SetInfo(options_.session.worker_id, options_.session.info);
}

absl::Status Agent::Run() {
  while (true) {
    wakeup_->Clear();
    const Request request = request_;
    session_.Step();
    if (session_.lease().IsOver(clock_->SteadyNow()) && current_) {
      current_->trainer->Stop(options_.stop_grace, "the lease is over: the coordinator has not answered");
    }
    StepDrain(request);
    StepTrainer();
    SetGauges();
    if (auto result = Result(request)) return *result;
    Wait();
  }
}

void Agent::RequestDrain() {
  Request expected = Request::kNone;
  request_.compare_exchange_strong(expected, Request::kDrain);
  Wake();
}

void Agent::RequestKill() {
  request_ = Request::kKill;
  Wake();
}

std::optional<AttemptKey> Agent::Running() const { return attempts_.current(); }

void Agent::OnStart(const v1::StartAttempt& start) {
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
  if (is_draining_) {
    v1::TrainerEvent stopped;
    stopped.mutable_stopped();
    session_.Report(key->ToProto(), std::move(stopped));
    return ReportNotStarted(*key, "this worker is ending");
  }
  PruneAttemptFolders(options_.folders.work, kAttemptFoldersKept);
  const auto prepared = PrepareAttempt(*key, start, options_.folders, options_.trainer);
  if (!prepared.ok()) {
    const std::string why(prepared.status().message());
    if (!absl::IsUnavailable(prepared.status()) && !absl::IsPermissionDenied(prepared.status())) {
      session_.Report(key->ToProto(), FailedForGood(why));
    }
    return ReportNotStarted(*key, why);
  }
  auto trainer = TrainerRun::Start(*prepared, clock_);
  if (!trainer.ok()) return ReportNotStarted(*key, std::string(trainer.status().message()));
  spdlog::info("{} is started: trainer {}, rank {} of {}, folder {}", key->ToString(), (*trainer)->pid(), key->rank,
               start.world_size(), prepared->child.folder);
  metrics_->trainer_starts_total.Increment();
  attempts_.Begin(*key);
  current_.emplace(Current{
      .key = *key,
      .trainer = *std::move(trainer),
      .metrics = std::make_unique<RunMetrics>(metrics_->runs, key->run.experiment.ToString(), key->run.ToString(),
                                              start.spec().norm().scheme(), start.spec().seed())});
}

void Agent::OnStop(const v1::StopAttempt& stop) {
  const auto key = AttemptKey::FromProto(stop.attempt());
  if (!key) {
    spdlog::error("the coordinator asked to stop '{}', which is no attempt", Describe(stop.attempt()));
    return;
  }
  if (current_ && current_->key == *key) return current_->trainer->Stop(FromProto(stop.grace()), stop.reason());
  // Its start was lost with an earlier stream: without this report the coordinator would wait for its end for ever.
  if (!attempts_.HasEnded(*key))
    ReportNotStarted(*key, fmt::format("stopped before it was started: {}", stop.reason()));
}

void Agent::OnFenced(const v1::AttemptRef& attempt) {
  const auto key = AttemptKey::FromProto(attempt);
  if (key && current_ && current_->key == *key) {
    current_->trainer->Stop(absl::ZeroDuration(), "fenced: the coordinator has given the run to another attempt");
  }
}

void Agent::StepTrainer() {
  if (!current_) return;
  for (v1::TrainerEvent& event : current_->trainer->Step()) ReportEvent(std::move(event));
  const auto& exit = current_->trainer->exit();
  if (!exit) return;
  const char* reason = ToString(current_->trainer->exit_reason());
  spdlog::info("{} has ended ({}): {}", current_->key.ToString(), reason, exit->detail());
  metrics_->CountExit(reason);
  session_.Report(current_->key.ToProto(), *exit);
  attempts_.End(current_->key);
  current_.reset();
  wakeup_->Wake();  // The report waits for the session's next step.
}

void Agent::ReportEvent(v1::TrainerEvent event) {
  if (current_->key.rank != 0 && IsForRankZeroOnly(event)) return;
  current_->metrics->Observe(event);
  session_.Report(current_->key.ToProto(), std::move(event));
  wakeup_->Wake();
}

void Agent::ReportNotStarted(const AttemptKey& key, const std::string& why) {
  spdlog::warn("{} is not started: {}", key.ToString(), why);
  metrics_->CountExit(ToString(ExitReason::kNotStarted));
  v1::TrainerExit exit;
  exit.set_detail(fmt::format("not started: {}", why));
  session_.Report(key.ToProto(), std::move(exit));
  attempts_.End(key);
}

void Agent::StepDrain(Request request) {
  if (request == Request::kNone) return;
  if (!is_draining_) {
    spdlog::info("ending: {}", current_ ? "the trainer checkpoints first" : "nothing runs");
    is_draining_ = true;
    session_.Drain();
  }
  if (!current_) return;
  current_->trainer->Stop(request == Request::kKill ? absl::ZeroDuration() : options_.stop_grace,
                          "the worker is asked to end");
}

std::optional<absl::Status> Agent::Result(Request request) {
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

void Agent::SetGauges() {
  metrics_->connected.Set(session_.is_welcome() ? 1 : 0);
  metrics_->lease_remaining_seconds.Set(absl::ToDoubleSeconds(session_.lease().Remaining(clock_->SteadyNow())));
  metrics_->reports_pending.Set(static_cast<double>(session_.reports().pending()));
  metrics_->reports_dropped_total.Increment(static_cast<double>(session_.reports().num_dropped()) -
                                            metrics_->reports_dropped_total.Value());
}

void Agent::Wait() {
  std::vector<pollfd> fds = {{.fd = wakeup_->fd(), .events = POLLIN}};
  absl::Time deadline = session_.NextDeadline();
  if (current_) {
    current_->trainer->AddPollFds(fds);
    deadline = std::min(deadline, current_->trainer->NextDeadline());
    if (session_.lease().expires_at() && !current_->trainer->is_stopping()) {
      deadline = std::min(deadline, *session_.lease().expires_at());
    }
  }
  if (told_by_) deadline = std::min(deadline, *told_by_);
  if (closed_by_) deadline = std::min(deadline, *closed_by_);
  const absl::Duration wait = std::clamp(deadline - clock_->SteadyNow(), absl::ZeroDuration(), kWaitMax);
  poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1)))));
}

}  // namespace normlab::agent
