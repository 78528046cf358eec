#pragma once

#include <absl/status/status.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace normlab {

/// `normlab-coordinator --data DIR restore --from BACKUP`: makes the data folder of a backup, or only checks the
/// backup. `data_folder` and `action`, which is set if the command was given, must outlive the parsing.
void AddRestoreCommand(CLI::App& app, const std::string& data_folder, std::function<absl::Status()>& action);

}  // namespace normlab
