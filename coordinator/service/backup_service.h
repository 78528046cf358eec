#pragma once

#include <absl/base/thread_annotations.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "common/clock.h"
#include "coordinator/store/backup.h"
#include "coordinator/store/store.h"
#include "normlab/v1/backup.grpc.pb.h"

namespace normlab::service {

/// See backup.proto. Any thread. Each backup or check works on a thread of its own and goes on if its caller leaves.
class BackupService final : public v1::BackupService::CallbackService {
 public:
  /// `backups` is null if there is no root for them; `clock` is null for the host's.
  BackupService(store::Store& store, store::Backups* backups, const Clock* clock);
  /// Waits for what is under way.
  ~BackupService() override;

  grpc::ServerWriteReactor<v1::BackupProgress>* CreateBackup(grpc::CallbackServerContext* context,
                                                             const v1::CreateBackupRequest* request) override;
  grpc::ServerUnaryReactor* ListBackups(grpc::CallbackServerContext* context, const v1::ListBackupsRequest* request,
                                        v1::ListBackupsResponse* response) override;
  grpc::ServerWriteReactor<v1::BackupProgress>* VerifyBackup(grpc::CallbackServerContext* context,
                                                             const v1::VerifyBackupRequest* request) override;

  /// Ends what is under way, and what comes later.
  void EndAll(const absl::Status& status);

 private:
  using Work = std::function<absl::StatusOr<v1::BackupManifest>(const store::OnProgress& on_progress)>;

  grpc::ServerWriteReactor<v1::BackupProgress>* Start(Work work);
  v1::Backup ToMessage(const v1::BackupManifest& manifest) const;
  bool is_ending() const;

  store::Store& store_;
  store::Backups* const backups_;
  const Clock* const clock_;
  mutable std::mutex mutex_;
  std::condition_variable has_ended_;
  int num_under_way_ = 0;  // Guarded by mutex_.
  absl::Status end_;       // Guarded by mutex_; not OK once EndAll was called.
};

}  // namespace normlab::service
