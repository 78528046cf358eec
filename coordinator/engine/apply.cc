#include <variant>

#include "coordinator/engine/engine.h"
#include "coordinator/engine/handlers.h"

namespace normlab::engine {

absl::StatusOr<Reply> Apply(const Options& options, State& state, const Command& command, absl::Time now,
                            Changes& changes) {
  Transaction tx(options, state, now, changes);
  return std::visit([&tx](const auto& known) { return Handle(tx, known); }, command);
}

}  // namespace normlab::engine
