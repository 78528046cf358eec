#pragma once

#include <poll.h>

#include <deque>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/rate_limit.h"
#include "normlab/v1/worker.pb.h"
#include "worker/agent/attempt_files.h"
#include "worker/agent/child.h"
#include "worker/agent/events.h"
#include "worker/agent/trainer.h"

namespace normlab::agent {

/// Why a trainer is no more; label of normlab_worker_trainer_exits_total.
enum class ExitReason { kFinished, kStopped, kFailed, kKilled, kCrashed, kNotStarted };
const char* ToString(ExitReason reason);

/// One trainer process: its events, its stderr, its stop. Never blocks. One thread calls everything, the one that lives
/// as long as the process (see Child).
class TrainerRun final : public Trainer {
 public:
  /// Fails like Child::Spawn.
  static absl::StatusOr<std::unique_ptr<TrainerRun>> Start(const PreparedAttempt& prepared, const Clock* clock);

  /// Reads what the trainer said, and sends the signals that are due. The bytes read per call are bounded.
  std::vector<v1::TrainerEvent> Step() override;
  const std::optional<v1::TrainerExit>& exit() const override { return exit_; }
  ExitReason exit_reason() const;

  /// SIGTERM now, SIGKILL to all of its group after `grace`.
  void Stop(absl::Duration grace, const std::string& reason) override;
  bool is_stopping() const override { return kill_at_.has_value(); }

  /// Adds what to wait for.
  void AddPollFds(std::vector<pollfd>& fds) const;
  absl::Time NextDeadline() const override;
  pid_t pid() const { return child_->pid(); }

 private:
  TrainerRun(std::unique_ptr<Child> child, const PreparedAttempt& prepared, const Clock* clock);
  void ReadEvents(std::vector<v1::TrainerEvent>& events, bool is_last);
  void ReadStderr(std::vector<v1::TrainerEvent>& events, bool is_last);
  void OnEventLine(std::string_view line, bool is_cut, std::vector<v1::TrainerEvent>& events);
  void OnStderrLine(std::string_view line, std::vector<v1::TrainerEvent>& events);
  /// Adds a log event, unless there are too many.
  void AddLog(v1::TrainerEvent event, std::vector<v1::TrainerEvent>& events);
  void Reap(std::vector<v1::TrainerEvent>& events);
  std::string Detail() const;

  const Clock* const clock_;
  const std::string trainer_;
  const std::string stderr_path_;
  std::unique_ptr<Child> child_;
  LineSplitter event_lines_{kEventLineBytesMax};
  LineSplitter stderr_lines_{kLogLineBytesMax};
  RateLimit log_limit_{/*per_second=*/100, /*burst=*/1000};
  int64_t num_logs_dropped_ = 0;
  std::ofstream stderr_log_;
  size_t stderr_bytes_ = 0;
  std::deque<std::string> stderr_tail_;

  ProgressWatch progress_;
  bool is_stuck_ = false;              // Ended because it made no progress.
  std::optional<absl::Time> kill_at_;  // Set: SIGTERM was sent.
  bool is_killed_ = false;
  std::string stop_reason_;
  v1::TrainerEvent::EventCase last_word_ = v1::TrainerEvent::EVENT_NOT_SET;  // finished, stopped or failed.
  absl::Time end_due_ = absl::InfiniteFuture();  // After its last word, a process has nothing more to do.
  std::optional<v1::TrainerExit> exit_;
};

}  // namespace normlab::agent
