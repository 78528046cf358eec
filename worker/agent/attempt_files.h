// The files of one attempt: where its data and checkpoints lie, and its folder below the agent's work folder.
//
//   WORK/lock                          held by the agent that uses WORK; holds its process id
//   WORK/<run>.<attempt>.<rank>/spec.json   what `normlab-train --spec` reads
//   WORK/<run>.<attempt>.<rank>/stderr.log  what the trainer wrote to stderr
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "normlab/v1/worker.pb.h"
#include "worker/agent/attempts.h"
#include "worker/agent/child.h"
#include "worker/agent/file_descriptor.h"
#include "worker/agent/progress.h"

namespace normlab::agent {

struct AgentFolders {
  std::filesystem::path work;
  std::filesystem::path data_root;
  std::filesystem::path checkpoint_root;
};

/// Creates the work and checkpoint folders and makes all three absolute. NOT_FOUND if the data root is missing,
/// PERMISSION_DENIED or UNAVAILABLE if one cannot be made.
absl::StatusOr<AgentFolders> OpenFolders(const AgentFolders& folders);

/// Locks the work folder until the descriptor is closed or the process ends, however it ends. FAILED_PRECONDITION, with
/// the owner's process id, if another agent holds it.
absl::StatusOr<FileDescriptor> LockWorkFolder(const std::filesystem::path& work);

/// The folder `relative` below `root`. NOT_FOUND if there is none; INVALID_ARGUMENT if the path is absolute, has "..",
/// or leads out of `root` through a link.
absl::StatusOr<std::filesystem::path> FolderBelow(const std::filesystem::path& root, const std::string& relative);

/// What the agent adds to what the coordinator sends.
struct TrainerSettings {
  std::string trainer;  // Path of normlab-train.
  std::string bind_host;
  int threads = 1;
};

/// A trainer that is ready to be spawned.
struct PreparedAttempt {
  ChildOptions child;
  std::filesystem::path stderr_log;
  ProgressWatch::Options progress;  // Of rank 0; other ranks report no progress and are not watched.
};

/// Writes the spec. NOT_FOUND or INVALID_ARGUMENT if the dataset cannot be used (it would not help to try again);
/// UNAVAILABLE if the work folder cannot be written.
absl::StatusOr<PreparedAttempt> PrepareAttempt(const AttemptKey& key, const v1::StartAttempt& start,
                                               const AgentFolders& folders, const TrainerSettings& settings);

/// Removes the folders of all but the `kept` attempts that were written last.
void PruneAttemptFolders(const std::filesystem::path& work, size_t kept);

}  // namespace normlab::agent
