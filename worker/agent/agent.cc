#include "worker/agent/agent.h"

#include <poll.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/status.h"
#include "fmt/format.h"
#include "spdlog/spdlog.h"

namespace normlab::agent {
namespace {

constexpr size_t kAttemptFoldersKept = 100;
// The gauge of the lease must not be older than this when it is scraped.
constexpr absl::Duration kWaitMax = absl::Seconds(1);

}  // namespace

Agent::Agent(AgentOptions options, std::shared_ptr<grpc::Channel> channel, const Clock* clock, Metrics* metrics)
    : options_(std::move(options)),
      clock_(clock),
      metrics_(metrics),
      stub_(v1::WorkerService::NewStub(std::move(channel))),
      core_(
          {.session = options_.session, .stop_grace = options_.stop_grace},
          [this] { return SessionStream::Open(*stub_, wakeup_); }, clock, this) {
  metrics_->SetInfo(options_.session.worker_id, options_.session.info);
}

absl::Status Agent::Run() {
  while (true) {
    wakeup_->Clear();
    const auto result = core_.Step(request_);
    SetGauges();
    if (result) return *result;
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

absl::StatusOr<std::unique_ptr<Trainer>> Agent::StartTrainer(const AttemptKey& key, const v1::StartAttempt& start) {
  PruneAttemptFolders(options_.folders.work, kAttemptFoldersKept);
  NORMLAB_ASSIGN_OR_RETURN(const PreparedAttempt prepared,
                           PrepareAttempt(key, start, options_.folders, options_.trainer));
  auto trainer = TrainerRun::Start(prepared, clock_);
  // Whatever it is that this host lacks, the run is not to blame.
  if (!trainer.ok()) return absl::UnavailableError(trainer.status().message());
  spdlog::info("{} is started: trainer {}, rank {} of {}, folder {}", key.ToString(), (*trainer)->pid(), key.rank,
               start.world_size(), prepared.child.folder);
  metrics_->trainer_starts_total.Increment();
  run_metrics_ = std::make_unique<RunMetrics>(metrics_->runs, key.run.experiment.ToString(), key.run.ToString(),
                                              start.spec().norm().scheme(), start.spec().seed());
  trainer_ = trainer->get();
  return *std::move(trainer);
}

void Agent::OnEvent(const v1::TrainerEvent& event) { run_metrics_->Observe(event); }

void Agent::OnEnd(const AttemptKey& /*key*/) {
  metrics_->CountExit(ToString(trainer_->exit_reason()));
  run_metrics_.reset();
  trainer_ = nullptr;
}

void Agent::OnNotStarted(const AttemptKey& /*key*/, const std::string& /*why*/) {
  metrics_->CountExit(ToString(ExitReason::kNotStarted));
}

void Agent::SetGauges() {
  const Session& session = core_.session();
  metrics_->connected.Set(session.is_welcome() ? 1 : 0);
  metrics_->lease_remaining_seconds.Set(absl::ToDoubleSeconds(session.lease().Remaining(clock_->SteadyNow())));
  metrics_->reports_pending.Set(static_cast<double>(session.reports().pending()));
  metrics_->reports_dropped_total.Increment(static_cast<double>(session.reports().num_dropped()) -
                                            metrics_->reports_dropped_total.Value());
}

void Agent::Wait() {
  std::vector<pollfd> fds = {{.fd = wakeup_->fd(), .events = POLLIN}};
  if (trainer_ != nullptr) trainer_->AddPollFds(fds);
  const absl::Duration wait = std::clamp(core_.NextDeadline() - clock_->SteadyNow(), absl::ZeroDuration(), kWaitMax);
  poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1)))));
}

}  // namespace normlab::agent
