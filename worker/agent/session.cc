#include "worker/agent/session.h"

#include <algorithm>
#include <utility>

#include "common/version.h"
#include "fmt/format.h"
#include "spdlog/spdlog.h"

namespace normlab::agent {
namespace {

constexpr absl::Duration kBackoffMin = absl::Milliseconds(250);
constexpr absl::Duration kBackoffMax = absl::Seconds(5);
constexpr absl::Duration kWelcomeTimeout = absl::Seconds(10);
// Reports in gRPC's hands at a time: enough to fill the pipe, few enough that a heartbeat behind them is not late.
constexpr size_t kBacklogMax = 64;

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp timestamp;
  const int64_t nanos = absl::ToUnixNanos(time);
  timestamp.set_seconds(nanos / 1'000'000'000);
  timestamp.set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  return timestamp;
}

}  // namespace

Session::Session(SessionOptions options, StreamOpener open_stream, const Clock* clock, SessionHandler* handler)
    : options_(std::move(options)),
      open_stream_(std::move(open_stream)),
      clock_(clock),
      handler_(handler),
      connect_at_(clock->SteadyNow()),
      backoff_(kBackoffMin, kBackoffMax, options_.random_seed),
      reports_(options_.report_bytes_max) {}

void Session::Step() {
  const absl::Time now = clock_->SteadyNow();
  if (stream_ != nullptr) Receive(now);
  if (stream_ == nullptr && !is_closing_ && now >= connect_at_) Connect(now);
  if (stream_ == nullptr) return;
  if (now >= SilentAt()) {
    spdlog::warn("the coordinator has not answered for {}; connecting again",
                 absl::FormatDuration(now - lease_.oldest_unanswered().value_or(hello_at_)));
    is_given_up_ = true;
    stream_->Cancel();
  }
  if (!is_welcome_ || is_closing_) return;
  if (now >= heartbeat_at_) SendHeartbeat(now);
  SendReports();
}

absl::Time Session::NextDeadline() const {
  if (stream_ == nullptr) return is_closing_ ? absl::InfiniteFuture() : connect_at_;
  return is_welcome_ && !is_closing_ ? std::min(heartbeat_at_, SilentAt()) : SilentAt();
}

absl::Time Session::SilentAt() const {
  if (is_given_up_) return absl::InfiniteFuture();
  if (!is_welcome_) return hello_at_ + kWelcomeTimeout;
  const auto oldest = lease_.oldest_unanswered();
  // Early enough for a second stream to save the lease.
  return oldest ? *oldest + std::max(lease_.length() / 2, 2 * heartbeat_interval_) : absl::InfiniteFuture();
}

void Session::Connect(absl::Time now) {
  stream_ = open_stream_();
  is_welcome_ = false;
  is_given_up_ = false;
  hello_at_ = now;
  v1::WorkerMessage message;
  v1::WorkerHello& hello = *message.mutable_hello();
  hello.set_worker_id(options_.worker_id);
  hello.set_incarnation(options_.incarnation);
  *hello.mutable_info() = options_.info;
  hello.set_protocol_version(kProtocolVersion);
  if (const auto running = handler_->Running()) *hello.add_running() = running->ToProto();
  stream_->Send(std::move(message));
}

void Session::Receive(absl::Time now) {
  // Asked before taking: what arrived before the end is then surely among what is taken.
  const auto ended = stream_->ended();
  for (const v1::CoordinatorMessage& message : stream_->Take()) Handle(message);
  if (ended) OnEnded(*ended, now);
}

void Session::Handle(const v1::CoordinatorMessage& message) {
  switch (message.message_case()) {
    case v1::CoordinatorMessage::kWelcome:
      return OnWelcome(message.welcome());
    case v1::CoordinatorMessage::kLeaseRenewed:
      if (!lease_.Renewed()) spdlog::warn("the coordinator answered a heartbeat that was never sent");
      return;
    case v1::CoordinatorMessage::kStart:
      return handler_->OnStart(message.start());
    case v1::CoordinatorMessage::kStop:
      return handler_->OnStop(message.stop());
    case v1::CoordinatorMessage::kAck:
      return reports_.Ack(message.ack().sequence());
    case v1::CoordinatorMessage::MESSAGE_NOT_SET:
      spdlog::warn("the coordinator sent a message that this version does not know");
      return;
  }
}

void Session::OnWelcome(const v1::Welcome& welcome) {
  const absl::Duration lease = FromProto(welcome.lease());
  heartbeat_interval_ = FromProto(welcome.heartbeat_interval());
  if (lease <= absl::ZeroDuration() || heartbeat_interval_ <= absl::ZeroDuration()) {
    spdlog::error("the coordinator welcomed with a lease of {} and heartbeats every {}; both must be above 0",
                  absl::FormatDuration(lease), absl::FormatDuration(heartbeat_interval_));
    is_given_up_ = true;
    stream_->Cancel();
    return;
  }
  spdlog::info("connected as {}: lease {}, heartbeats every {}, {} reports to send", options_.worker_id,
               absl::FormatDuration(lease), absl::FormatDuration(heartbeat_interval_), reports_.pending());
  is_welcome_ = true;
  is_outage_logged_ = false;
  backoff_.Reset();
  lease_.Grant(hello_at_, lease);
  heartbeat_at_ = hello_at_ + heartbeat_interval_;
  reports_.ResendAll();
  for (const v1::AttemptRef& attempt : welcome.fenced()) handler_->OnFenced(attempt);
  if (is_draining_) Drain();
}

void Session::OnEnded(const absl::Status& status, absl::Time now) {
  stream_.reset();
  lease_.Disconnected();
  if (is_closing_) return;
  const absl::Duration wait = backoff_.Next();
  connect_at_ = now + wait;
  const std::string what =
      fmt::format("{} ({})", status.message().empty() ? "stream closed" : std::string(status.message()),
                  absl::StatusCodeToString(status.code()));
  // A refusal is news each time; an absence only once.
  const bool is_refusal = !status.ok() && !absl::IsUnavailable(status);
  if (is_refusal || !is_outage_logged_) {
    spdlog::warn("no session with the coordinator: {}; trying again{}", what,
                 wait > absl::ZeroDuration() ? fmt::format(" in {}", absl::FormatDuration(wait)) : "");
  }
  is_outage_logged_ = true;
  is_welcome_ = false;
}

void Session::SendHeartbeat(absl::Time now) {
  v1::WorkerMessage message;
  message.mutable_heartbeat()->set_reports_pending(static_cast<int64_t>(reports_.pending()));
  stream_->Send(std::move(message));
  lease_.HeartbeatSent(now);
  heartbeat_at_ = now + heartbeat_interval_;
}

void Session::SendReports() {
  for (size_t room = kBacklogMax - std::min(kBacklogMax, stream_->backlog()); room > 0; --room) {
    const v1::AttemptReport* report = reports_.NextUnsent();
    if (report == nullptr) return;
    v1::WorkerMessage message;
    *message.mutable_report() = *report;
    stream_->Send(std::move(message));
    reports_.MarkSent();
  }
}

void Session::Report(const v1::AttemptRef& attempt, v1::TrainerEvent event) {
  v1::AttemptReport report;
  *report.mutable_event() = std::move(event);
  Queue(std::move(report), attempt);
}

void Session::Report(const v1::AttemptRef& attempt, v1::TrainerExit exit) {
  v1::AttemptReport report;
  *report.mutable_exit() = std::move(exit);
  Queue(std::move(report), attempt);
}

void Session::Queue(v1::AttemptReport report, const v1::AttemptRef& attempt) {
  *report.mutable_attempt() = attempt;
  *report.mutable_time() = ToTimestamp(clock_->Now());
  const int64_t dropped_before = reports_.num_dropped();
  reports_.Add(std::move(report));
  if (const int64_t dropped = reports_.num_dropped() - dropped_before; dropped > 0) {
    spdlog::warn(
        "{} step, layer and log reports were dropped to keep {} others within {} bytes: the coordinator does not "
        "acknowledge them",
        dropped, reports_.pending(), options_.report_bytes_max);
  }
}

void Session::Drain() {
  is_draining_ = true;
  if (!is_welcome()) return;  // Said after the next welcome.
  v1::WorkerMessage message;
  message.mutable_draining();
  stream_->Send(std::move(message));
}

void Session::Close() {
  is_closing_ = true;
  if (stream_ != nullptr) stream_->HalfClose();
}

}  // namespace normlab::agent
