#include "worker/agent/trainer_run.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "common/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "spdlog/spdlog.h"

namespace normlab::agent {
namespace {

constexpr size_t kStderrFileBytesMax = 16 << 20;
constexpr size_t kTailLinesMax = 20;
constexpr size_t kTailLineBytesMax = 500;
constexpr size_t kReadBytes = 64 << 10;
// Per call and pipe, so that a trainer which never stops talking cannot keep the agent from its heartbeats.
constexpr int kReadsMax = 16;
// A trainer that hangs in its destructors would keep its worker, and the end of its run, for ever.
constexpr absl::Duration kLastWordGrace = absl::Seconds(60);
// How often to look whether the last descendants of an ended trainer are gone.
constexpr absl::Duration kEndingPoll = absl::Milliseconds(10);

/// Hands what is in the pipe to `on_bytes`. False once it has ended.
template <typename Function>
bool ReadSome(int fd, int reads_max, const Function& on_bytes) {
  std::array<char, kReadBytes> buffer;
  for (int i = 0; i < reads_max; ++i) {
    const ssize_t bytes = read(fd, buffer.data(), buffer.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) return errno == EAGAIN;
    if (bytes == 0) return false;
    on_bytes(std::string_view(buffer.data(), static_cast<size_t>(bytes)));
  }
  return true;
}

}  // namespace

const char* ToString(ExitReason reason) {
  switch (reason) {
    case ExitReason::kFinished:
      return "finished";
    case ExitReason::kStopped:
      return "stopped";
    case ExitReason::kFailed:
      return "failed";
    case ExitReason::kKilled:
      return "killed";
    case ExitReason::kCrashed:
      return "crashed";
    case ExitReason::kNotStarted:
      return "not_started";
  }
  return "unknown";
}

absl::StatusOr<std::unique_ptr<TrainerRun>> TrainerRun::Start(const PreparedAttempt& prepared, const Clock* clock) {
  NORMLAB_ASSIGN_OR_RETURN(std::unique_ptr<Child> child, Child::Spawn(prepared.child));
  return std::unique_ptr<TrainerRun>(new TrainerRun(std::move(child), prepared, clock));
}

TrainerRun::TrainerRun(std::unique_ptr<Child> child, const PreparedAttempt& prepared, const Clock* clock)
    : clock_(clock),
      trainer_(prepared.child.argv[0]),
      stderr_path_(prepared.stderr_log.string()),
      child_(std::move(child)),
      stderr_log_(prepared.stderr_log, std::ios::binary | std::ios::trunc),
      progress_(prepared.progress, clock->SteadyNow()) {}

std::vector<v1::TrainerEvent> TrainerRun::Step() {
  std::vector<v1::TrainerEvent> events;
  if (exit_) return events;
  if (clock_->SteadyNow() >= end_due_) {
    end_due_ = absl::InfiniteFuture();
    Stop(absl::ZeroDuration(),
         fmt::format("it had said its last word {} before and did not end", absl::FormatDuration(kLastWordGrace)));
  }
  if (kill_at_ && !is_killed_ && clock_->SteadyNow() >= *kill_at_) {
    spdlog::warn("trainer {} is killed ({})", child_->pid(), stop_reason_);
    is_killed_ = true;
    child_->Kill();
  }
  ReadEvents(events, /*is_last=*/false);
  ReadStderr(events, /*is_last=*/false);
  // After reading: an agent that was itself stopped for a while has reports to read first.
  if (!kill_at_ && clock_->SteadyNow() >= progress_.due()) {
    is_stuck_ = true;
    Stop(absl::ZeroDuration(),
         fmt::format("no progress for {}: resources.progress_timeout_seconds allows no more",
                     absl::FormatDuration(absl::Trunc(clock_->SteadyNow() - progress_.seen_at(), absl::Seconds(1)))));
  }
  child_->ReapOrphans();
  Reap(events);
  return events;
}

void TrainerRun::Reap(std::vector<v1::TrainerEvent>& events) {
  const auto ended = child_->TryReap();
  if (!ended) return;
  // All writers are gone: what is in the pipes now is all there will ever be.
  ReadEvents(events, /*is_last=*/true);
  ReadStderr(events, /*is_last=*/true);
  if (num_logs_dropped_ > 0) {
    events.push_back(LogEvent(
        v1::LogLine::WARNING,
        fmt::format("{} log lines were not sent: too many at once; stderr is in {}", num_logs_dropped_, stderr_path_)));
  }
  v1::TrainerExit exit;
  if (ended->code) exit.set_code(*ended->code);
  if (ended->signal) exit.set_signal(*ended->signal);
  exit_ = std::move(exit);
  exit_->set_detail(Detail());
  if (is_stuck_) exit_->set_cause(v1::CAUSE_TRAINER_STUCK);
}

std::string TrainerRun::Detail() const {
  std::string detail = exit_->has_signal()
                           ? fmt::format("ended by signal {} ({})", exit_->signal(), strsignal(exit_->signal()))
                           : fmt::format("exited with code {}", exit_->code());
  if (!stop_reason_.empty()) detail += fmt::format(" after a stop ({})", stop_reason_);
  if (!stderr_tail_.empty()) detail += fmt::format("; last lines of stderr:\n{}", fmt::join(stderr_tail_, "\n"));
  return detail;
}

ExitReason TrainerRun::exit_reason() const {
  switch (last_word_) {
    case v1::TrainerEvent::kFinished:
      return ExitReason::kFinished;
    case v1::TrainerEvent::kStopped:
      return ExitReason::kStopped;
    case v1::TrainerEvent::kFailed:
      return ExitReason::kFailed;
    default:
      return is_stopping() ? ExitReason::kKilled : ExitReason::kCrashed;
  }
}

void TrainerRun::ReadEvents(std::vector<v1::TrainerEvent>& events, bool is_last) {
  if (!child_->out().is_open()) return;
  const auto on_line = [&](std::string_view line, bool is_cut) { OnEventLine(line, is_cut, events); };
  const bool is_open = ReadSome(child_->out().get(), is_last ? INT_MAX : kReadsMax,
                                [&](std::string_view bytes) { event_lines_.Add(bytes, on_line); });
  if (is_open && !is_last) return;
  event_lines_.Finish(on_line);
  child_->out().Close();
}

void TrainerRun::ReadStderr(std::vector<v1::TrainerEvent>& events, bool is_last) {
  if (!child_->err().is_open()) return;
  const auto on_line = [&](std::string_view line, bool) { OnStderrLine(line, events); };
  const bool is_open = ReadSome(child_->err().get(), is_last ? INT_MAX : kReadsMax, [&](std::string_view bytes) {
    if (stderr_bytes_ < kStderrFileBytesMax) {
      stderr_log_ << bytes;
      if (stderr_bytes_ + bytes.size() >= kStderrFileBytesMax) {
        stderr_log_ << fmt::format("\n[cut here: this file is limited to {} bytes]\n", kStderrFileBytesMax);
      }
      stderr_log_.flush();
    }
    stderr_bytes_ += bytes.size();
    stderr_lines_.Add(bytes, on_line);
  });
  if (is_open && !is_last) return;
  stderr_lines_.Finish(on_line);
  child_->err().Close();
}

void TrainerRun::OnEventLine(std::string_view line, bool is_cut, std::vector<v1::TrainerEvent>& events) {
  ParsedLine parsed = ParseEventLine(line, is_cut);
  if (!parsed.warning.empty()) AddLog(LogEvent(v1::LogLine::WARNING, parsed.warning), events);
  // What a stuck trainer still prints is no progress.
  if (!parsed.event.has_log()) progress_.See(clock_->SteadyNow());
  switch (parsed.event.event_case()) {
    case v1::TrainerEvent::kLog:
      AddLog(std::move(parsed.event), events);
      return;
    case v1::TrainerEvent::kEvaluating:
      return;  // Progress, and nothing to remember.
    case v1::TrainerEvent::kFinished:
    case v1::TrainerEvent::kStopped:
    case v1::TrainerEvent::kFailed:
      last_word_ = parsed.event.event_case();
      end_due_ = clock_->SteadyNow() + kLastWordGrace;
      break;
    default:
      break;
  }
  events.push_back(std::move(parsed.event));
}

void TrainerRun::OnStderrLine(std::string_view line, std::vector<v1::TrainerEvent>& events) {
  stderr_tail_.push_back(ValidUtf8(line, kTailLineBytesMax));
  if (stderr_tail_.size() > kTailLinesMax) stderr_tail_.pop_front();
  AddLog(LogEvent(v1::LogLine::WARNING, line), events);
}

void TrainerRun::AddLog(v1::TrainerEvent event, std::vector<v1::TrainerEvent>& events) {
  if (log_limit_.Allow(clock_->SteadyNow())) {
    events.push_back(std::move(event));
  } else {
    ++num_logs_dropped_;
  }
}

void TrainerRun::Stop(absl::Duration grace, const std::string& reason) {
  if (exit_) return;
  const absl::Time kill_at = clock_->SteadyNow() + grace;
  if (kill_at_ && kill_at >= *kill_at_) return;
  spdlog::info("trainer {} is stopped within {} ({})", child_->pid(), absl::FormatDuration(grace), reason);
  if (!kill_at_ && grace > absl::ZeroDuration()) child_->Terminate();
  kill_at_ = kill_at;
  stop_reason_ = reason;
}

void TrainerRun::AddPollFds(std::vector<pollfd>& fds) const {
  if (child_->is_ending()) return;  // The pidfd stays readable: only NextDeadline helps now.
  fds.push_back({.fd = child_->pidfd(), .events = POLLIN});
  if (child_->out().is_open()) fds.push_back({.fd = child_->out().get(), .events = POLLIN});
  if (child_->err().is_open()) fds.push_back({.fd = child_->err().get(), .events = POLLIN});
}

absl::Time TrainerRun::NextDeadline() const {
  if (exit_) return absl::InfinitePast();
  absl::Time next = kill_at_ && !is_killed_ ? std::min(*kill_at_, end_due_) : end_due_;
  if (!kill_at_) next = std::min(next, progress_.due());
  if (child_->is_ending()) next = std::min(next, clock_->SteadyNow() + kEndingPoll);
  return next;
}

}  // namespace normlab::agent
