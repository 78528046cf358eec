#include "cli/backup_client.h"

#include "absl/time/clock.h"
#include "cli/client.h"
#include "common/grpc_status.h"

namespace normlab::cli {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(30);

/// The last message's backup.
absl::StatusOr<v1::Backup> ReadToEnd(grpc::ClientReader<v1::BackupProgress>& reader,
                                     const BackupClient::OnProgress& on_progress) {
  v1::BackupProgress progress;
  while (reader.Read(&progress)) on_progress(progress);
  const grpc::Status status = reader.Finish();
  if (!status.ok()) return FromGrpc(status);
  return progress.backup();
}

}  // namespace

BackupClient::BackupClient(const Session& session)
    : stub_(v1::BackupService::NewStub(MakeChannel(session.server, session.security))) {}

absl::StatusOr<v1::Backup> BackupClient::CreateBackup(const v1::CreateBackupRequest& request,
                                                      const OnProgress& on_progress) {
  grpc::ClientContext context;
  return ReadToEnd(*stub_->CreateBackup(&context, request), on_progress);
}

absl::StatusOr<v1::ListBackupsResponse> BackupClient::ListBackups() {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallTimeout));
  v1::ListBackupsResponse response;
  const grpc::Status status = stub_->ListBackups(&context, {}, &response);
  if (!status.ok()) return FromGrpc(status);
  return response;
}

absl::StatusOr<v1::Backup> BackupClient::VerifyBackup(const v1::VerifyBackupRequest& request,
                                                      const OnProgress& on_progress) {
  grpc::ClientContext context;
  return ReadToEnd(*stub_->VerifyBackup(&context, request), on_progress);
}

}  // namespace normlab::cli
