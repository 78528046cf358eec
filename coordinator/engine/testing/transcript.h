#pragma once

#include <string>

#include "coordinator/engine/effect.h"
#include "coordinator/engine/state.h"

// The engine's answers as text that a test can quote.
namespace normlab::engine {

/// "exp-0001.01#2/0": run, attempt, rank.
std::string Text(const AttemptRef& ref);

/// What the caller was told: one line per change of a run; empty for Done.
std::string Text(const Reply& reply);

/// One line per event, record and message. Acks and renewed leases, which nearly every command has, only if
/// `is_verbose`.
std::string Text(const Changes& changes, bool is_verbose);

/// One line per run, and one per worker.
std::string RunsText(const State& state, absl::Time start);
std::string WorkersText(const State& state);

/// One line per owner: what he has, and his usage at `now`.
std::string OwnersText(const State& state, const Policy& policy, absl::Time now);

}  // namespace normlab::engine
