#include "coordinator/service/backup_service.h"

#include <fmt/format.h>

#include <thread>
#include <utility>

#include "common/log.h"
#include "coordinator/service/ending_stream.h"
#include "coordinator/service/unary.h"
#include "coordinator/store/backup_files.h"

namespace normlab::service {
namespace {

absl::Status NoRoot() {
  return absl::FailedPreconditionError(
      "this coordinator has no place for backups: start it with --backup-root FOLDER, best on another disk");
}

const Clock& HostClock() {
  static const RealClock clock;
  return clock;
}

}  // namespace

/// Tells how far a piece of work is: of what comes while a message is being written, the newest.
class BackupStream final : public EndingStream<grpc::ServerWriteReactor<v1::BackupProgress>>,
                           public std::enable_shared_from_this<BackupStream> {
 public:
  void HoldUntilDone() { self_ = shared_from_this(); }

  void Tell(uint64_t bytes_done, uint64_t bytes_total) {
    const std::scoped_lock lock(mutex_);
    next_.set_bytes_done(static_cast<int64_t>(bytes_done));
    next_.set_bytes_total(static_cast<int64_t>(bytes_total));
    has_next_ = true;
    WriteNext();
  }

  void Finished(const absl::StatusOr<v1::Backup>& backup) {
    const std::scoped_lock lock(mutex_);
    if (!backup.ok()) return EndLocked(backup.status());
    *next_.mutable_backup() = *backup;
    has_next_ = is_last_ = true;
    WriteNext();
  }

  void OnWriteDone(bool ok) override {
    const std::scoped_lock lock(mutex_);
    is_busy_ = false;
    if (!ok) return EndLocked(absl::CancelledError("the caller is gone"));
    FinishIfEnded();
    WriteNext();
  }

  void OnCancel() override { End(absl::CancelledError("the caller is gone")); }
  void OnDone() override { self_.reset(); }

 private:
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (is_busy_ || end_ || !has_next_) return;
    message_ = next_;
    has_next_ = false;
    is_busy_ = true;
    if (is_last_) end_ = absl::OkStatus();
    StartWrite(&message_);
  }

  std::shared_ptr<BackupStream> self_;
  v1::BackupProgress message_ ABSL_GUARDED_BY(mutex_);  // Being written.
  v1::BackupProgress next_ ABSL_GUARDED_BY(mutex_);
  bool has_next_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_last_ ABSL_GUARDED_BY(mutex_) = false;
};

BackupService::BackupService(store::Store& store, store::Backups* backups, const Clock* clock)
    : store_(store), backups_(backups), clock_(clock == nullptr ? &HostClock() : clock) {}

BackupService::~BackupService() {
  EndAll(absl::UnavailableError("the coordinator is ending"));
  std::unique_lock lock(mutex_);
  has_ended_.wait(lock, [this] { return num_under_way_ == 0; });
}

grpc::ServerWriteReactor<v1::BackupProgress>* BackupService::Start(Work work) {
  auto stream = std::make_shared<BackupStream>();
  stream->HoldUntilDone();
  {
    const std::scoped_lock lock(mutex_);
    if (backups_ == nullptr || !end_.ok()) {
      stream->End(backups_ == nullptr ? NoRoot() : end_);
      return stream.get();
    }
    ++num_under_way_;
  }
  std::thread([this, stream, work = std::move(work)] {
    absl::StatusOr<v1::BackupManifest> manifest;
    const absl::Status done = store::Guarded([&] {
      manifest = work([&](uint64_t bytes_done, uint64_t bytes_total) {
        stream->Tell(bytes_done, bytes_total);
        return !is_ending();
      });
      return manifest.status();
    });
    if (!done.ok()) manifest = done;
    if (manifest.ok()) {
      stream->Finished(ToMessage(*manifest));
    } else {
      spdlog::error("{}", std::string(manifest.status().message()));
      stream->Finished(manifest.status());
    }
    const std::scoped_lock lock(mutex_);
    --num_under_way_;
    has_ended_.notify_all();
  }).detach();
  return stream.get();
}

grpc::ServerWriteReactor<v1::BackupProgress>* BackupService::CreateBackup(grpc::CallbackServerContext* /*context*/,
                                                                          const v1::CreateBackupRequest* request) {
  return Start([this, actor = request->actor()](const store::OnProgress& on_progress) {
    auto made = backups_->Create(store_, clock_->Now(), on_progress);
    if (made.ok()) {
      spdlog::info("backup {} for {} with {} runs at revision {} is in {}", made->name(), actor, made->num_runs(),
                   made->revision(), backups_->PathOf(made->name()).string());
    }
    return made;
  });
}

grpc::ServerWriteReactor<v1::BackupProgress>* BackupService::VerifyBackup(grpc::CallbackServerContext* /*context*/,
                                                                          const v1::VerifyBackupRequest* request) {
  return Start([this, name = request->name()](const store::OnProgress& on_progress) {
    return backups_->Verify(name, on_progress);
  });
}

grpc::ServerUnaryReactor* BackupService::ListBackups(grpc::CallbackServerContext* context,
                                                     const v1::ListBackupsRequest* /*request*/,
                                                     v1::ListBackupsResponse* response) {
  if (backups_ == nullptr) return FinishNow(context, NoRoot());
  const auto backups = backups_->List();
  if (!backups.ok()) return FinishNow(context, backups.status());
  for (const v1::BackupManifest& manifest : *backups) *response->add_backups() = ToMessage(manifest);
  return FinishNow(context, absl::OkStatus());
}

v1::Backup BackupService::ToMessage(const v1::BackupManifest& manifest) const {
  v1::Backup message;
  message.set_name(manifest.name());
  message.set_path(backups_->PathOf(manifest.name()).string());
  *message.mutable_created_at() = manifest.created_at();
  message.set_version(manifest.version());
  message.set_schema_version(manifest.schema_version());
  message.set_revision(manifest.revision());
  message.set_num_experiments(manifest.num_experiments());
  message.set_num_runs(manifest.num_runs());
  int64_t bytes = 0;
  for (const v1::BackupManifest::File& file : manifest.files()) bytes += file.bytes();
  message.set_bytes(bytes);
  message.set_num_files(manifest.files_size());
  return message;
}

void BackupService::EndAll(const absl::Status& status) {
  const std::scoped_lock lock(mutex_);
  end_ = status;
}

bool BackupService::is_ending() const {
  const std::scoped_lock lock(mutex_);
  return !end_.ok();
}

}  // namespace normlab::service
