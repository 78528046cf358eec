#include "coordinator/restore_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "common/clock.h"
#include "common/ids.h"
#include "common/status.h"
#include "coordinator/store/backup.h"
#include "coordinator/store/convert.h"

namespace normlab {
namespace {

struct RestoreFlags {
  std::string from;
  bool only_checks = false;
};

bool ShowProgress(uint64_t done, uint64_t total) {
  if (total > 0 && isatty(STDERR_FILENO)) fmt::print(stderr, "\r{} of {} MiB", done >> 20, total >> 20);
  return true;
}

std::string Describe(const v1::BackupManifest& manifest) {
  return fmt::format(
      "{} of {} (normlab {}, {} experiments, {} runs, revision {})", manifest.name(),
      absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", store::FromTimestamp(manifest.created_at()), absl::UTCTimeZone()),
      manifest.version(), manifest.num_experiments(), manifest.num_runs(), manifest.revision());
}

absl::Status Check(const std::string& from) {
  NORMLAB_ASSIGN_OR_RETURN(const auto manifest, store::VerifyBackup(from, ShowProgress));
  fmt::print("{} is whole\n", Describe(manifest));
  return absl::OkStatus();
}

absl::Status Restore(const std::string& from, const std::string& data_folder) {
  const RealClock clock;
  NORMLAB_ASSIGN_OR_RETURN(const auto restored, store::RestoreBackup(from, data_folder, clock.Now(), ShowProgress));
  fmt::print(
      "restored {} to {}{}\nWhat was changed after the backup is lost. New experiments go on from {} and new attempts "
      "from "
      "{}, so that nothing that the lost database gave out is given out again.\n",
      Describe(restored.manifest), data_folder, restored.has_tokens ? ", with its tokens" : "",
      ExperimentId{restored.first_experiment}.ToString(), restored.first_attempt);
  return absl::OkStatus();
}

}  // namespace

void AddRestoreCommand(CLI::App& app, const std::string& data_folder, std::function<absl::Status()>& action) {
  auto flags = std::make_shared<RestoreFlags>();
  CLI::App* restore = app.add_subcommand("restore", "Make the data folder of a backup; never over a database");
  restore->footer(
      "Example:\n"
      "  mv DIR/db DIR/db.damaged\n"
      "  normlab-coordinator --data DIR restore --from BACKUPS/backup-20261124T135612.345Z");
  restore->add_option("--from", flags->from, "Folder of the backup, as `normlab admin backup list` shows it")
      ->required()
      ->type_name("FOLDER");
  restore->add_flag("--check", flags->only_checks, "Only read the backup and say whether it is whole");
  restore->callback([flags, &data_folder, &action] {
    action = [flags, data_folder] {
      return flags->only_checks ? Check(flags->from) : Restore(flags->from, data_folder);
    };
  });
}

}  // namespace normlab
