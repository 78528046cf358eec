#pragma once

#include <absl/time/time.h>

#include <map>
#include <string>

#include "coordinator/engine/effect.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/state.h"

namespace normlab::simulation {

/// What must hold after every command, whatever happened before.
class Invariants {
 public:
  /// The first rule that is broken, in words, or nothing. `before` is the state before `command`, `changes` what
  /// followed from it.
  std::string Check(const engine::State& before, const engine::Command& command, const engine::State& after,
                    const engine::Changes& changes, const engine::Policy& policy);

 private:
  std::string CheckMoves(const engine::State& before, const engine::Command& command, const engine::State& after);
  std::string CheckMessages(const engine::Changes& changes);

  std::map<engine::AttemptRef, WorkerId> started_on_;
};

}  // namespace normlab::simulation
