// One log format for all daemons: 2026-01-31T12:00:00.123Z info  normlab-worker: text, on stderr, in UTC.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "spdlog/spdlog.h"

namespace normlab {

/// Sends spdlog's default logger to stderr under the name `program`. `level` is trace, debug, info, warning, error or
/// off; INVALID_ARGUMENT for anything else. Call once, before threads are started; afterwards spdlog::info(...) and
/// friends may be called from any thread.
absl::Status InitLogging(const std::string& program, const std::string& level);

}  // namespace normlab
