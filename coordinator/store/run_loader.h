#pragma once

#include <absl/status/status.h>

#include "coordinator/engine/state.h"
#include "coordinator/store/backend.h"

namespace normlab::store {

/// Fills state.runs from the backend, which is read by several threads: a start takes as long as this does. The
/// experiments must be there: they say where the parts begin. DATA_LOSS for a record that cannot be read.
absl::Status LoadRuns(Backend& backend, engine::State& state);

}  // namespace normlab::store
