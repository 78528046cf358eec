#include "worker/agent/attempt_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <regex>
#include <system_error>
#include <utility>

#include "common/spec.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::agent {
namespace {

namespace fs = std::filesystem;

absl::Status CreateFolder(const fs::path& folder, const std::string& flag) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) return absl::OkStatus();
  const std::string message = fmt::format("{} {}: cannot create it: {}", flag, folder.string(), error.message());
  return error == std::errc::permission_denied ? absl::PermissionDeniedError(message) : absl::UnavailableError(message);
}

absl::Status WriteText(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text << std::flush;
  if (file) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("cannot write {} ({} bytes): {}; free space below --work", path.string(),
                                            text.size(), std::generic_category().message(errno)));
}

/// Gives the checkpoint `name` a second name that belongs to this attempt, so that the trainer, which is told to use
/// none of earlier attempts, finds it and no newer one. Trainers never change a file in place: links are enough.
absl::Status AdoptCheckpoint(const fs::path& folder, const std::string& name, const AttemptKey& key) {
  static const std::regex kName("(step-[0-9]+)\\.attempt-[0-9]+");
  std::smatch parts;
  if (!std::regex_match(name, parts, kName)) {
    return absl::InvalidArgumentError(
        fmt::format("checkpoint '{}' has no name like step-00000100.attempt-002: see `normlab show`", name));
  }
  std::error_code error;
  const fs::path from = folder / name;
  if (!fs::is_directory(from, error)) {
    return absl::NotFoundError(
        fmt::format("there is no checkpoint {}: it was removed (report.checkpoints_kept), or is "
                    "on another host; requeue from the newest or from scratch",
                    from.string()));
  }
  const fs::path to = folder / fmt::format("{}.attempt-{:03}", parts[1].str(), key.attempt);
  if (fs::exists(to, error)) return absl::OkStatus();
  const fs::path temporary = folder / fmt::format(".tmp-{}.rank-{}", to.filename().string(), key.rank);
  fs::remove_all(temporary, error);
  fs::create_directory(temporary, error);
  for (const auto& file : fs::directory_iterator(from, error)) {
    fs::create_hard_link(file.path(), temporary / file.path().filename(), error);
    if (error) fs::copy_file(file.path(), temporary / file.path().filename(), error);
    if (error) break;
  }
  if (!error) fs::rename(temporary, to, error);
  if (!error) return absl::OkStatus();
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
  if (fs::exists(to, ignored)) return absl::OkStatus();  // Another rank of the gang was faster.
  return absl::UnavailableError(fmt::format("cannot link {} as {}: {}", from.string(), to.string(), error.message()));
}

/// Where a run's first weights lie: below the checkpoint root, or else below the data root.
absl::StatusOr<fs::path> InitFolder(const AgentFolders& folders, const std::string& relative) {
  for (const fs::path& root : {folders.checkpoint_root, folders.data_root}) {
    if (auto folder = FolderBelow(root, relative); folder.ok()) return folder;
  }
  return absl::NotFoundError(fmt::format(
      "train.init_from '{}' is no folder below this worker's checkpoint root {} or data root {}; give a path without "
      "'..' and without links that lead out, or copy the weights there",
      relative, folders.checkpoint_root.string(), folders.data_root.string()));
}

bool IsAttemptFolder(const fs::directory_entry& entry) {
  std::error_code ignored;
  return entry.is_directory(ignored) && fs::exists(entry.path() / "spec.json", ignored) &&
         entry.path().filename().string().starts_with("exp-");
}

}  // namespace

absl::StatusOr<AgentFolders> OpenFolders(const AgentFolders& folders) {
  NORMLAB_RETURN_IF_ERROR(CreateFolder(folders.work, "--work"));
  NORMLAB_RETURN_IF_ERROR(CreateFolder(folders.checkpoint_root, "--checkpoint-root"));
  std::error_code error;
  const AgentFolders absolute = {.work = fs::canonical(folders.work, error),
                                 .data_root = fs::canonical(folders.data_root, error),
                                 .checkpoint_root = fs::canonical(folders.checkpoint_root, error)};
  if (!fs::is_directory(absolute.data_root, error)) {
    return absl::NotFoundError(
        fmt::format("--data-root {} is no folder; make one with `normlab data prepare`", folders.data_root.string()));
  }
  return absolute;
}

absl::StatusOr<FileDescriptor> LockWorkFolder(const fs::path& work) {
  const fs::path path = work / "lock";
  FileDescriptor fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.is_open()) {
    return absl::UnavailableError(
        fmt::format("cannot open {}: {}", path.string(), std::generic_category().message(errno)));
  }
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    std::string owner;
    std::getline(std::ifstream(path), owner);
    return absl::FailedPreconditionError(
        fmt::format("--work {} is used by another worker (process {}); give each worker a folder of its own",
                    work.string(), owner.empty() ? "unknown" : owner));
  }
  const std::string pid = fmt::format("{}\n", getpid());
  if (ftruncate(fd.get(), 0) != 0 || write(fd.get(), pid.data(), pid.size()) < 0) {
    return absl::UnavailableError(
        fmt::format("cannot write {}: {}", path.string(), std::generic_category().message(errno)));
  }
  return fd;
}

absl::StatusOr<fs::path> FolderBelow(const fs::path& root, const std::string& relative) {
  const fs::path path(relative);
  if (relative.empty() || relative.find('\0') != std::string::npos || path.is_absolute() ||
      std::find(path.begin(), path.end(), "..") != path.end()) {
    return absl::InvalidArgumentError(
        fmt::format("dataset '{}' must be a path below the data root, without '..'", relative));
  }
  std::error_code error;
  const fs::path real_root = fs::canonical(root, error);
  const fs::path real = fs::canonical(root / path, error);
  if (error || !fs::is_directory(real, error)) {
    return absl::NotFoundError(fmt::format(
        "dataset '{}' is no folder below this worker's data root {}; make it there with `normlab data prepare`",
        relative, root.string()));
  }
  const auto [root_end, ignored] = std::mismatch(real_root.begin(), real_root.end(), real.begin(), real.end());
  if (root_end != real_root.end()) {
    return absl::InvalidArgumentError(fmt::format("dataset '{}' is a link that leads out of the data root {} to {}",
                                                  relative, root.string(), real.string()));
  }
  return real;
}

absl::StatusOr<PreparedAttempt> PrepareAttempt(const AttemptKey& key, const v1::StartAttempt& start,
                                               const AgentFolders& folders, const TrainerSettings& settings) {
  NORMLAB_ASSIGN_OR_RETURN(const fs::path data, FolderBelow(folders.data_root, start.spec().data().dataset()));
  v1::TrainerSpec spec;
  *spec.mutable_run() = start.spec();
  spec.set_data_dir(data.string());
  spec.set_checkpoint_dir((folders.checkpoint_root / key.run.ToString()).string());
  if (const std::string& init_from = start.spec().train().init_from(); !init_from.empty()) {
    NORMLAB_ASSIGN_OR_RETURN(const fs::path init, InitFolder(folders, init_from));
    spec.set_init_dir(init.string());
  }
  if (!start.resume_checkpoint().empty()) {
    NORMLAB_RETURN_IF_ERROR(AdoptCheckpoint(spec.checkpoint_dir(), start.resume_checkpoint(), key));
  }
  spec.set_attempt(key.attempt);
  spec.set_resume_from_attempt(start.resume_from_attempt());
  spec.set_rank(key.rank);
  spec.set_world_size(start.world_size());
  spec.set_rendezvous(start.rendezvous());
  spec.set_bind_host(settings.bind_host);
  const int threads = start.spec().resources().threads();
  spec.set_threads(threads > 0 ? threads : settings.threads);
  spec.set_device(start.spec().resources().device());

  const fs::path folder = folders.work / key.ToString();
  NORMLAB_RETURN_IF_ERROR(CreateFolder(folder, "work folder"));
  const fs::path spec_path = folder / "spec.json";
  NORMLAB_RETURN_IF_ERROR(WriteText(spec_path, ToTrainerJson(spec)));
  return PreparedAttempt{
      .child = {.argv = {settings.trainer, "--spec", spec_path.string(), "--events", "-"}, .folder = folder.string()},
      .stderr_log = folder / "stderr.log",
      .progress = {.timeout = absl::Seconds(key.rank == 0 ? start.spec().resources().progress_timeout_seconds() : 0),
                   .steps_per_report = start.spec().report().step_every_steps()}};
}

void PruneAttemptFolders(const fs::path& work, size_t kept) {
  std::error_code ignored;
  std::vector<std::pair<fs::file_time_type, fs::path>> folders;
  for (const auto& entry : fs::directory_iterator(work, ignored)) {
    if (IsAttemptFolder(entry))
      folders.emplace_back(fs::last_write_time(entry.path() / "spec.json", ignored), entry.path());
  }
  std::sort(folders.rbegin(), folders.rend());
  for (size_t i = kept; i < folders.size(); ++i) fs::remove_all(folders[i].second, ignored);
}

}  // namespace normlab::agent
