#include "cli/client.h"

#include <algorithm>
#include <random>

#include "absl/time/clock.h"
#include "common/status.h"
#include "fmt/format.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace normlab::cli {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(20);
// Long enough for a coordinator that is being restarted, short enough for one that is not there.
constexpr absl::Duration kPatience = absl::Seconds(3);
// A server that accepts and refuses at once must not be asked in a tight loop.
constexpr absl::Duration kPause = absl::Milliseconds(100);
// Between two looks at whether the calls were cancelled.
constexpr absl::Duration kGlance = absl::Milliseconds(50);
constexpr int kPageSize = 1000;

}  // namespace

std::string NewRequestId() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& server, const ChannelSecurity& security) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // Also the longest time for one handshake.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  // Two clients of one process must not share a connection in backoff.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(256 << 20);
  return OpenChannel(server, security, arguments);
}

Client::Client(std::string server, std::function<void(const std::string&)> on_retry, ChannelSecurity security)
    : server_(std::move(server)),
      on_retry_(std::move(on_retry)),
      security_(std::move(security)),
      problem_(CheckChannelSecurity("--server", server_, security_, absl::Now())),
      // Without credentials gRPC makes a channel on which every call fails.
      channel_(problem_.ok() ? MakeChannel(server_, security_) : grpc::CreateChannel(server_, nullptr)) {
  experiments_ = v1::ExperimentService::NewStub(channel_);
  runs_ = v1::RunService::NewStub(channel_);
  workers_ = v1::WorkerService::NewStub(channel_);
  admin_ = v1::AdminService::NewStub(channel_);
  backups_ = v1::BackupService::NewStub(channel_);
}

absl::Status Client::Explain(const grpc::Status& status) const {
  if (!problem_.ok()) return problem_;
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    if (const std::string why = ExplainConnection(server_, security_); !why.empty()) {
      return absl::UnavailableError(why);
    }
    return absl::UnavailableError(
        fmt::format("no coordinator answers at {} ({}): start one with `normlab up`, or name another with --server or "
                    "NORMLAB_SERVER",
                    server_, status.error_message()));
  }
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return absl::DeadlineExceededError(
        fmt::format("the coordinator at {} did not answer within {}: it may be overloaded "
                    "or cut off; try again",
                    server_, absl::FormatDuration(kCallTimeout)));
  }
  return FromGrpc(status);
}

template <typename Response, typename Call>
absl::StatusOr<Response> Client::Retry(const Call& call) {
  const absl::Time give_up_at = absl::Now() + kPatience;
  for (bool is_first = true;; is_first = false) {
    Response response;
    const grpc::Status status = Try([&](grpc::ClientContext* context) { return call(context, &response); });
    if (status.ok()) return response;
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE || absl::Now() > give_up_at) return Explain(status);
    if (is_first) on_retry_(fmt::format("{} does not answer; trying again", server_));
    absl::SleepFor(kPause);
    while (!is_cancelled() && !WaitForConnection(std::min(kGlance, give_up_at - absl::Now()))) {
      if (absl::Now() > give_up_at) return Explain(status);
    }
  }
}

grpc::Status Client::Try(const std::function<grpc::Status(grpc::ClientContext*)>& call) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallTimeout));
  {
    const std::scoped_lock lock(mutex_);
    if (is_cancelled_) return grpc::Status(grpc::StatusCode::CANCELLED, "interrupted");
    in_flight_.insert(&context);
  }
  const grpc::Status status = call(&context);
  const std::scoped_lock lock(mutex_);
  in_flight_.erase(&context);
  return status;
}

bool Client::is_cancelled() const {
  const std::scoped_lock lock(mutex_);
  return is_cancelled_;
}

void Client::CancelCalls() {
  const std::scoped_lock lock(mutex_);
  is_cancelled_ = true;
  for (grpc::ClientContext* context : in_flight_) context->TryCancel();
}

bool Client::WaitForConnection(absl::Duration time) {
  return channel_->WaitForConnected(absl::ToChronoTime(absl::Now() + time));
}

absl::StatusOr<v1::CreateExperimentResponse> Client::CreateExperiment(const v1::CreateExperimentRequest& request) {
  return Retry<v1::CreateExperimentResponse>(
      [&](auto* context, auto* response) { return experiments_->CreateExperiment(context, request, response); });
}

absl::StatusOr<v1::Experiment> Client::GetExperiment(const std::string& id) {
  v1::GetExperimentRequest request;
  request.set_id(id);
  return Retry<v1::Experiment>(
      [&](auto* context, auto* response) { return experiments_->GetExperiment(context, request, response); });
}

absl::StatusOr<std::vector<v1::Experiment>> Client::ListExperiments() {
  std::vector<v1::Experiment> all;
  v1::ListExperimentsRequest request;
  request.set_page_size(kPageSize);
  do {
    NORMLAB_ASSIGN_OR_RETURN(auto page, Retry<v1::ListExperimentsResponse>([&](auto* context, auto* response) {
                               return experiments_->ListExperiments(context, request, response);
                             }));
    for (auto& experiment : *page.mutable_experiments()) all.push_back(std::move(experiment));
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return all;
}

absl::StatusOr<v1::Run> Client::GetRun(const std::string& id) {
  v1::GetRunRequest request;
  request.set_id(id);
  return Retry<v1::Run>([&](auto* context, auto* response) { return runs_->GetRun(context, request, response); });
}

absl::StatusOr<std::vector<v1::Run>> Client::ListRuns(const v1::RunSelector& selector) {
  std::vector<v1::Run> all;
  v1::ListRunsRequest request;
  *request.mutable_selector() = selector;
  request.set_page_size(kPageSize);
  do {
    NORMLAB_ASSIGN_OR_RETURN(auto page, Retry<v1::ListRunsResponse>([&](auto* context, auto* response) {
                               return runs_->ListRuns(context, request, response);
                             }));
    for (auto& run : *page.mutable_runs()) all.push_back(std::move(run));
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return all;
}

absl::StatusOr<v1::ChangeRunsResponse> Client::CancelRuns(const v1::CancelRunsRequest& request) {
  return Retry<v1::ChangeRunsResponse>(
      [&](auto* context, auto* response) { return runs_->CancelRuns(context, request, response); });
}

absl::StatusOr<v1::ChangeRunsResponse> Client::RequeueRuns(const v1::RequeueRunsRequest& request) {
  return Retry<v1::ChangeRunsResponse>(
      [&](auto* context, auto* response) { return runs_->RequeueRuns(context, request, response); });
}

absl::StatusOr<v1::ChangeRunsResponse> Client::UpdateRuns(const v1::UpdateRunsRequest& request) {
  return Retry<v1::ChangeRunsResponse>(
      [&](auto* context, auto* response) { return runs_->UpdateRuns(context, request, response); });
}

absl::StatusOr<v1::ListQueueResponse> Client::ListQueue(int limit) {
  v1::ListQueueResponse all;
  v1::ListQueueRequest request;
  do {
    request.set_page_size(std::min<int>(kPageSize, limit - all.runs_size()));
    NORMLAB_ASSIGN_OR_RETURN(auto page, Retry<v1::ListQueueResponse>([&](auto* context, auto* response) {
                               return runs_->ListQueue(context, request, response);
                             }));
    request.set_page_token(page.next_page_token());
    all.MergeFrom(page);
    all.set_next_page_token(page.next_page_token());
  } while (!request.page_token().empty() && all.runs_size() < limit);
  return all;
}

absl::StatusOr<v1::ListEventsResponse> Client::ListEvents(const std::string& run_id) {
  v1::ListEventsRequest request;
  request.set_run_id(run_id);
  return Retry<v1::ListEventsResponse>(
      [&](auto* context, auto* response) { return runs_->ListEvents(context, request, response); });
}

absl::StatusOr<v1::HistorySummary> Client::GetHistorySummary(const std::string& run_id) {
  v1::GetHistorySummaryRequest request;
  request.set_run_id(run_id);
  return Retry<v1::HistorySummary>(
      [&](auto* context, auto* response) { return runs_->GetHistorySummary(context, request, response); });
}

absl::StatusOr<std::vector<v1::StepHistory>> Client::GetMetrics(const std::string& run_id) {
  std::vector<v1::StepHistory> all;
  v1::GetMetricsRequest request;
  request.set_run_id(run_id);
  request.set_page_size(kPageSize);
  bool has_more = true;
  while (has_more) {
    NORMLAB_ASSIGN_OR_RETURN(auto page, Retry<v1::GetMetricsResponse>([&](auto* context, auto* response) {
                               return runs_->GetMetrics(context, request, response);
                             }));
    has_more = page.has_more() && page.steps_size() > 0;
    for (auto& step : *page.mutable_steps()) all.push_back(std::move(step));
    if (!all.empty()) request.set_after_step(all.back().step());
  }
  return all;
}

absl::StatusOr<std::vector<v1::StepHistory>> Client::GetMetricsAfter(const std::string& run_id, int64_t after_step,
                                                                     int limit) {
  v1::GetMetricsRequest request;
  request.set_run_id(run_id);
  request.set_after_step(after_step);
  request.set_page_size(limit);
  NORMLAB_ASSIGN_OR_RETURN(auto page, Retry<v1::GetMetricsResponse>([&](auto* context, auto* response) {
                             return runs_->GetMetrics(context, request, response);
                           }));
  return std::vector<v1::StepHistory>(page.steps().begin(), page.steps().end());
}

absl::StatusOr<v1::RecordAnalysisResponse> Client::RecordAnalysis(const v1::RecordAnalysisRequest& request) {
  return Retry<v1::RecordAnalysisResponse>(
      [&](auto* context, auto* response) { return runs_->RecordAnalysis(context, request, response); });
}

absl::StatusOr<v1::ListWorkersResponse> Client::ListWorkers() {
  return Retry<v1::ListWorkersResponse>(
      [&](auto* context, auto* response) { return workers_->ListWorkers(context, {}, response); });
}

absl::StatusOr<v1::SetWorkerCordonResponse> Client::SetWorkerCordon(const v1::SetWorkerCordonRequest& request) {
  return Retry<v1::SetWorkerCordonResponse>(
      [&](auto* context, auto* response) { return admin_->SetWorkerCordon(context, request, response); });
}

absl::StatusOr<v1::WhoAmIResponse> Client::WhoAmI() {
  return Retry<v1::WhoAmIResponse>(
      [&](auto* context, auto* response) { return admin_->WhoAmI(context, {}, response); });
}

absl::StatusOr<v1::CreateTokenResponse> Client::CreateToken(const v1::CreateTokenRequest& request) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallTimeout));
  v1::CreateTokenResponse response;
  const grpc::Status status = admin_->CreateToken(&context, request, &response);
  if (!status.ok()) return Explain(status);
  return response;
}

absl::StatusOr<v1::ListTokensResponse> Client::ListTokens() {
  return Retry<v1::ListTokensResponse>(
      [&](auto* context, auto* response) { return admin_->ListTokens(context, {}, response); });
}

absl::StatusOr<v1::RevokeTokenResponse> Client::RevokeToken(const v1::RevokeTokenRequest& request) {
  return Retry<v1::RevokeTokenResponse>(
      [&](auto* context, auto* response) { return admin_->RevokeToken(context, request, response); });
}

absl::StatusOr<v1::Backup> Client::ReadToEnd(grpc::ClientReader<v1::BackupProgress>& reader,
                                             const OnBackupProgress& on_progress) const {
  v1::BackupProgress progress;
  while (reader.Read(&progress)) on_progress(progress);
  const grpc::Status status = reader.Finish();
  if (!status.ok()) return Explain(status);
  return progress.backup();
}

absl::StatusOr<v1::Backup> Client::CreateBackup(const v1::CreateBackupRequest& request,
                                                const OnBackupProgress& on_progress) {
  grpc::ClientContext context;
  return ReadToEnd(*backups_->CreateBackup(&context, request), on_progress);
}

absl::StatusOr<v1::ListBackupsResponse> Client::ListBackups() {
  return Retry<v1::ListBackupsResponse>(
      [&](auto* context, auto* response) { return backups_->ListBackups(context, {}, response); });
}

absl::StatusOr<v1::Backup> Client::VerifyBackup(const v1::VerifyBackupRequest& request,
                                                const OnBackupProgress& on_progress) {
  grpc::ClientContext context;
  return ReadToEnd(*backups_->VerifyBackup(&context, request), on_progress);
}

absl::StatusOr<v1::Info> Client::GetInfo() {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(5)));
  v1::Info info;
  const grpc::Status status = admin_->GetInfo(&context, {}, &info);
  if (!status.ok()) return Explain(status);
  return info;
}

std::unique_ptr<grpc::ClientReader<v1::WatchRunsResponse>> Client::WatchRuns(grpc::ClientContext* context,
                                                                             const v1::WatchRunsRequest& request) {
  return runs_->WatchRuns(context, request);
}

std::unique_ptr<grpc::ClientReader<v1::LogEntry>> Client::StreamLogs(grpc::ClientContext* context,
                                                                     const v1::StreamLogsRequest& request) {
  return runs_->StreamLogs(context, request);
}

}  // namespace normlab::cli
