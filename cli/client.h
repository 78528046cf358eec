// How the command line talks to the coordinator.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/grpc_channel.h"
#include "common/grpc_status.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "normlab/v1/admin.grpc.pb.h"
#include "normlab/v1/backup.grpc.pb.h"
#include "normlab/v1/experiment.grpc.pb.h"
#include "normlab/v1/run.grpc.pb.h"
#include "normlab/v1/worker.grpc.pb.h"

namespace normlab::cli {

/// A new id for a call that must not be done twice: 128 random bits in hex.
std::string NewRequestId();

/// A channel with keepalive and short reconnects. Connects on first use. `security` was checked.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& server, const ChannelSecurity& security);

/// One coordinator. Calls block; a call that finds it unreachable is tried again for a few seconds, which is safe
/// because each call is idempotent or carries a request id.
class Client {
 public:
  /// `on_retry` is called once per call that has to wait, with what to tell the user. Where `security` cannot be used,
  /// nothing is sent and each call says why.
  Client(std::string server, std::function<void(const std::string&)> on_retry, ChannelSecurity security = {});

  absl::StatusOr<v1::CreateExperimentResponse> CreateExperiment(const v1::CreateExperimentRequest& request);
  absl::StatusOr<v1::Experiment> GetExperiment(const std::string& id);
  absl::StatusOr<std::vector<v1::Experiment>> ListExperiments();
  absl::StatusOr<v1::Run> GetRun(const std::string& id);
  /// All pages.
  absl::StatusOr<std::vector<v1::Run>> ListRuns(const v1::RunSelector& selector);
  absl::StatusOr<v1::ChangeRunsResponse> CancelRuns(const v1::CancelRunsRequest& request);
  absl::StatusOr<v1::ChangeRunsResponse> RequeueRuns(const v1::RequeueRunsRequest& request);
  absl::StatusOr<v1::ChangeRunsResponse> UpdateRuns(const v1::UpdateRunsRequest& request);
  /// The first `limit` waiting runs in the order of the queue.
  absl::StatusOr<v1::ListQueueResponse> ListQueue(int limit);
  absl::StatusOr<v1::ListEventsResponse> ListEvents(const std::string& run_id);
  absl::StatusOr<v1::HistorySummary> GetHistorySummary(const std::string& run_id);
  /// The whole history of a run, in order of step.
  absl::StatusOr<std::vector<v1::StepHistory>> GetMetrics(const std::string& run_id);
  /// At most `limit` steps of the history after `after_step`.
  absl::StatusOr<std::vector<v1::StepHistory>> GetMetricsAfter(const std::string& run_id, int64_t after_step,
                                                               int limit);
  absl::StatusOr<v1::RecordAnalysisResponse> RecordAnalysis(const v1::RecordAnalysisRequest& request);
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers();
  absl::StatusOr<v1::SetWorkerCordonResponse> SetWorkerCordon(const v1::SetWorkerCordonRequest& request);
  absl::StatusOr<v1::WhoAmIResponse> WhoAmI();
  /// One try only: a second one would make a second token.
  absl::StatusOr<v1::CreateTokenResponse> CreateToken(const v1::CreateTokenRequest& request);
  absl::StatusOr<v1::ListTokensResponse> ListTokens();
  absl::StatusOr<v1::RevokeTokenResponse> RevokeToken(const v1::RevokeTokenRequest& request);
  using OnBackupProgress = std::function<void(const v1::BackupProgress&)>;
  /// One try only: a second one would make a second backup. Takes as long as the backup does.
  absl::StatusOr<v1::Backup> CreateBackup(const v1::CreateBackupRequest& request, const OnBackupProgress& on_progress);
  absl::StatusOr<v1::ListBackupsResponse> ListBackups();
  /// One try only; takes as long as reading the backup does.
  absl::StatusOr<v1::Backup> VerifyBackup(const v1::VerifyBackupRequest& request, const OnBackupProgress& on_progress);
  /// One try only; for showing what answers, and for waiting until something does.
  absl::StatusOr<v1::Info> GetInfo();

  /// Streams; the caller ends them through `context`. UNAVAILABLE is not retried here.
  std::unique_ptr<grpc::ClientReader<v1::WatchRunsResponse>> WatchRuns(grpc::ClientContext* context,
                                                                       const v1::WatchRunsRequest& request);
  std::unique_ptr<grpc::ClientReader<v1::LogEntry>> StreamLogs(grpc::ClientContext* context,
                                                               const v1::StreamLogsRequest& request);

  /// Tries to connect for at most `time`; true if there is a connection. A channel makes progress only while somebody
  /// waits on it, so this is also the way to pause between tries.
  bool WaitForConnection(absl::Duration time);

  /// Ends the retried calls in flight, and all later ones at once, with CANCELLED. From any thread.
  void CancelCalls() ABSL_LOCKS_EXCLUDED(mutex_);

  const std::string& server() const { return server_; }
  /// `status` with the address and what to do in its message if the coordinator could not be reached.
  absl::Status Explain(const grpc::Status& status) const;

 private:
  template <typename Response, typename Call>
  absl::StatusOr<Response> Retry(const Call& call);
  /// One try of a call.
  grpc::Status Try(const std::function<grpc::Status(grpc::ClientContext*)>& call) ABSL_LOCKS_EXCLUDED(mutex_);
  bool is_cancelled() const ABSL_LOCKS_EXCLUDED(mutex_);
  /// The last message's backup.
  absl::StatusOr<v1::Backup> ReadToEnd(grpc::ClientReader<v1::BackupProgress>& reader,
                                       const OnBackupProgress& on_progress) const;

  const std::string server_;
  const std::function<void(const std::string&)> on_retry_;
  const ChannelSecurity security_;
  const absl::Status problem_;  // Why nothing may be sent; OK otherwise.
  const std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ExperimentService::Stub> experiments_;
  std::unique_ptr<v1::RunService::Stub> runs_;
  std::unique_ptr<v1::WorkerService::Stub> workers_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
  std::unique_ptr<v1::BackupService::Stub> backups_;
  mutable std::mutex mutex_;
  std::set<grpc::ClientContext*> in_flight_ ABSL_GUARDED_BY(mutex_);
  bool is_cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace normlab::cli
