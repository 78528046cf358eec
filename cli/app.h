// The program's tree of commands.
#pragma once

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/session.h"

namespace normlab::cli {

/// All commands, writing into `session`, which must outlive the result.
std::unique_ptr<CLI::App> MakeApp(Session& session);

}  // namespace normlab::cli
