// What the command line says to the coordinator's BackupService.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/session.h"
#include "normlab/v1/backup.grpc.pb.h"

namespace normlab::cli {

/// Calls block and are tried once: a second CreateBackup would make a second backup.
class BackupClient {
 public:
  explicit BackupClient(const Session& session);

  using OnProgress = std::function<void(const v1::BackupProgress&)>;
  absl::StatusOr<v1::Backup> CreateBackup(const v1::CreateBackupRequest& request, const OnProgress& on_progress);
  absl::StatusOr<v1::ListBackupsResponse> ListBackups();
  absl::StatusOr<v1::Backup> VerifyBackup(const v1::VerifyBackupRequest& request, const OnProgress& on_progress);

 private:
  std::unique_ptr<v1::BackupService::Stub> stub_;
};

}  // namespace normlab::cli
