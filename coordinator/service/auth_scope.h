#pragma once

#include <absl/status/status.h>

#include <string>

#include "coordinator/engine/command.h"
#include "coordinator/service/auth_tokens.h"
#include "coordinator/service/engine_port.h"

// What follows from who calls, for every command that has an owner, an actor or a selector.
namespace normlab::service {

/// Puts the token's owner in place of what the client says of itself.
template <typename Command>
void Attribute(const Caller& caller, Command& command) {
  if (!caller.is_known()) return;
  if constexpr (requires { command.owner; }) command.owner = caller.name;
  if constexpr (requires { command.actor; }) command.actor = "user:" + caller.name;
}

/// Whether the caller's commands on chosen runs have to go through RestrictToOwn.
inline bool IsRestricted(const Caller& caller) { return caller.is_known() && caller.role != Role::kOperator; }

/// Narrows `selector` to the runs that it chooses now, by id, so that it cannot come to choose others before it is
/// applied. PERMISSION_DENIED if one of them is not `owner`'s; NOT_FOUND if there is none.
absl::Status RestrictToOwn(const View& view, const std::string& owner, engine::Selector& selector);

}  // namespace normlab::service
