#pragma once

#include <absl/status/status.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

namespace normlab {

/// Where a coordinator keeps its tokens.
std::string TokensFile(const std::string& data_folder);

/// `normlab-coordinator --data DIR token create|list|revoke`: works on the data folder, with or without a running
/// coordinator, and so makes the first token. `data_folder` and the result's target must outlive the parsing; `action`
/// is set if one of the commands was given.
void AddTokenCommand(CLI::App& app, const std::string& data_folder, std::function<absl::Status()>& action);

}  // namespace normlab
