#include "bench/control/fleet.h"

#include <deque>
#include <stop_token>
#include <utility>

#include "absl/time/clock.h"
#include "bench/control/submitters.h"
#include "common/grpc_status.h"
#include "common/version.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"

namespace normlab::bench {
namespace {

// Below any lease that makes sense; the coordinator's own wish comes with its welcome, one per worker.
constexpr std::chrono::seconds kHeartbeatInterval{3};

}  // namespace

void AssignmentBoard::RecordWelcome() {
  const std::scoped_lock lock(mutex_);
  ++welcomes_;
  has_news_.notify_all();
}

void AssignmentBoard::RecordStart(const std::string& run_id, absl::Time at) {
  const std::scoped_lock lock(mutex_);
  starts_.emplace(run_id, at);
  last_start_ = at;
  has_news_.notify_all();
}

void AssignmentBoard::RecordError(const absl::Status& error) {
  const std::scoped_lock lock(mutex_);
  error_.Update(error);
  has_news_.notify_all();
}

absl::Status AssignmentBoard::WaitForWelcomes(int count, absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  const auto is_over = [&] { return welcomes_ >= count || !error_.ok(); };
  if (!has_news_.wait_for(lock, absl::ToChronoMilliseconds(timeout), is_over)) {
    return absl::DeadlineExceededError(
        fmt::format("{} of {} workers were welcomed within {}", welcomes_, count, absl::FormatDuration(timeout)));
  }
  return error_;
}

absl::StatusOr<absl::Time> AssignmentBoard::WaitForStarts(size_t count, absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  const auto is_over = [&] { return starts_.size() >= count || !error_.ok(); };
  if (!has_news_.wait_for(lock, absl::ToChronoMilliseconds(timeout), is_over)) {
    return absl::DeadlineExceededError(
        fmt::format("{} of {} runs were assigned within {}", starts_.size(), count, absl::FormatDuration(timeout)));
  }
  if (!error_.ok()) return error_;
  return last_start_;
}

absl::StatusOr<absl::Time> AssignmentBoard::WaitForStart(const std::string& run_id, absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  const auto is_over = [&] { return starts_.contains(run_id) || !error_.ok(); };
  if (!has_news_.wait_for(lock, absl::ToChronoMilliseconds(timeout), is_over)) {
    return absl::DeadlineExceededError(
        fmt::format("run {} was not assigned within {}", run_id, absl::FormatDuration(timeout)));
  }
  if (!error_.ok()) return error_;
  return starts_.at(run_id);
}

/// One session. gRPC's threads call the On methods; the others may be called from any thread.
class SimulatedWorker : public grpc::ClientBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage> {
 public:
  SimulatedWorker(const std::string& address, const std::string& id, AssignmentBoard& board)
      : board_(board), stub_(v1::WorkerService::NewStub(OwnConnection(address))) {
    stub_->async()->Session(&context_, this);
    v1::WorkerMessage message;
    v1::WorkerHello& hello = *message.mutable_hello();
    hello.set_worker_id(id);
    hello.set_incarnation(id + "-1");
    hello.set_protocol_version(kProtocolVersion);
    v1::WorkerInfo& info = *hello.mutable_info();
    info.set_host(id);
    info.set_device("cpu");
    info.set_threads(1);
    info.set_build(kVersion);
    info.set_metrics_address("127.0.0.1:1");
    Send(std::move(message));
    StartRead(&incoming_);
    StartCall();
  }

  /// Cancels the session and waits until gRPC is done with this object.
  ~SimulatedWorker() override {
    Cancel();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return is_done_; });
  }

  void Cancel() {
    const std::scoped_lock lock(mutex_);
    is_cancelled_ = true;
    context_.TryCancel();
  }

  void SendHeartbeat() {
    v1::WorkerMessage message;
    message.mutable_heartbeat();
    Send(std::move(message));
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (incoming_.has_welcome()) board_.RecordWelcome();
    if (incoming_.has_start()) {
      board_.RecordStart(incoming_.start().attempt().run_id(), absl::Now());
      ReportWholeRun(incoming_.start().attempt());
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    const std::scoped_lock lock(mutex_);
    outgoing_.pop_front();
    if (!ok) outgoing_.clear();
    if (!outgoing_.empty()) StartWrite(&outgoing_.front());
  }

  void OnDone(const grpc::Status& status) override {
    const std::scoped_lock lock(mutex_);
    if (!is_cancelled_) board_.RecordError(FromGrpc(status));
    is_done_ = true;
    // Under the lock: once it is released, the destructor may go on.
    done_.notify_all();
  }

 private:
  void Send(v1::WorkerMessage message) {
    const std::scoped_lock lock(mutex_);
    if (is_done_ || is_cancelled_) return;
    outgoing_.push_back(std::move(message));
    if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
  }

  void ReportWholeRun(const v1::AttemptRef& attempt) {
    v1::TrainerEvent started;
    started.mutable_started()->set_first_step(1);
    started.mutable_started()->set_steps(1);
    v1::TrainerEvent finished;
    finished.mutable_finished()->set_step(1);
    for (const v1::TrainerEvent& event : {started, finished}) {
      v1::WorkerMessage message = NextReport(attempt);
      *message.mutable_report()->mutable_event() = event;
      Send(std::move(message));
    }
    v1::WorkerMessage message = NextReport(attempt);
    message.mutable_report()->mutable_exit()->set_code(0);
    Send(std::move(message));
  }

  v1::WorkerMessage NextReport(const v1::AttemptRef& attempt) {
    v1::WorkerMessage message;
    message.mutable_report()->set_sequence(++last_sequence_);
    *message.mutable_report()->mutable_attempt() = attempt;
    return message;
  }

  AssignmentBoard& board_;
  const std::unique_ptr<v1::WorkerService::Stub> stub_;
  grpc::ClientContext context_;
  v1::CoordinatorMessage incoming_;  // Touched by the read in flight and by OnReadDone only.
  int64_t last_sequence_ = 0;        // Likewise.
  std::mutex mutex_;
  std::condition_variable done_;
  std::deque<v1::WorkerMessage> outgoing_ ABSL_GUARDED_BY(mutex_);  // The first one is being written.
  bool is_cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_done_ ABSL_GUARDED_BY(mutex_) = false;
};

Fleet::Fleet(const std::string& address, int num_workers, AssignmentBoard& board) {
  for (int i = 0; i < num_workers; ++i) {
    workers_.push_back(std::make_unique<SimulatedWorker>(address, fmt::format("sim-{:04}", i), board));
  }
  heartbeats_ = std::jthread([this](std::stop_token stop) {
    std::mutex mutex;
    std::condition_variable_any wakeup;
    std::unique_lock lock(mutex);
    while (!wakeup.wait_for(lock, stop, kHeartbeatInterval, [&] { return stop.stop_requested(); })) {
      for (const auto& worker : workers_) worker->SendHeartbeat();
    }
  });
}

Fleet::~Fleet() {
  heartbeats_.request_stop();
  heartbeats_.join();
  for (const auto& worker : workers_) worker->Cancel();
}

}  // namespace normlab::bench
