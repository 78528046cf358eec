#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <google/protobuf/message.h>
#include <spdlog/logger.h>

#include <filesystem>
#include <memory>
#include <string>

namespace normlab::service {

struct AuditEntry {
  absl::Time time;
  std::string who;       // The token's owner; empty if nobody was recognized.
  std::string token_id;  // Empty if none was asked for or recognized.
  std::string role;
  std::string peer;
  std::string method;
  const google::protobuf::Message* request = nullptr;   // Null for streams.
  const google::protobuf::Message* response = nullptr;  // Null unless it was sent.
  absl::Status result;
};

/// Who changed what, with which result: one JSON object per line, in FOLDER/audit.jsonl. Messages are summarized: the
/// fields of their first levels, long texts cut, long lists as their length and first elements; a field named "token"
/// is left out. The file is renamed to audit.1.jsonl (then .2 and so on) when it is full, and the oldest is removed:
/// disk use is bounded. Lines reach the kernel before the call is answered; they are not synced, so a power loss may
/// cost the last ones. Any thread.
class AuditLog {
 public:
  struct Options {
    size_t file_bytes_max = 64 << 20;
    size_t files_kept = 8;
  };

  /// Creates the folder, for its owner alone. FAILED_PRECONDITION if it cannot be written.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const std::filesystem::path& folder, const Options& options);

  void Write(const AuditEntry& entry);

 private:
  explicit AuditLog(std::shared_ptr<spdlog::logger> logger) : logger_(std::move(logger)) {}
  const std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace normlab::service
