#pragma once

#include <absl/functional/function_ref.h>

#include <optional>

#include "coordinator/engine/command.h"
#include "coordinator/engine/state.h"

namespace normlab::service {

/// Looks at the runs behind `after` that `selector` may choose, in order of id, until `visit` returns false;
/// `is_chosen` says whether it does. Reads no more than the experiment or the runs that the selector names;
/// `selector.runs` must be in order. An empty selector chooses everything.
void ScanRuns(const engine::State& state, const engine::Selector& selector, std::optional<RunId> after,
              absl::FunctionRef<bool(const engine::Run& run, bool is_chosen)> visit);

}  // namespace normlab::service
