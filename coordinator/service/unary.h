#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <fmt/format.h>
#include <grpcpp/support/server_callback.h>

#include <string>
#include <utility>

#include "common/grpc_status.h"
#include "coordinator/service/auth_guard.h"
#include "coordinator/service/auth_scope.h"
#include "coordinator/service/engine_port.h"
#include "coordinator/service/limits.h"

// What unary methods have in common.
namespace normlab::service {

/// Ends the call now.
inline grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

/// Ends the call with what `fill(view)` returns, run on the engine's thread.
template <typename Fill>
grpc::ServerUnaryReactor* FinishFromState(grpc::CallbackServerContext* context, EnginePort& engine, Fill fill) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  engine.Read([reactor, fill = std::move(fill)](const absl::Status& status, const View* view) {
    reactor->Finish(ToGrpc(status.ok() ? fill(*view) : status));
  });
  return reactor;
}

namespace unary_internal {

template <typename CommandType, typename Fill>
void Submit(grpc::ServerUnaryReactor* reactor, EnginePort& engine, CommandType command, Fill fill) {
  engine.Submit(std::move(command),
                [reactor, fill = std::move(fill)](const absl::StatusOr<engine::Reply>& reply, const View* view) {
                  if (reply.ok()) fill(*reply, *view);
                  reactor->Finish(ToGrpc(reply.status()));
                });
}

}  // namespace unary_internal

/// Submits `command` in the caller's name; if it is not refused, `fill(reply, view)` writes the response on the
/// engine's thread. Ends at once if the command could not be made of the request. A command with a selector is refused
/// if the caller may change only own runs and it chooses another's.
template <typename CommandType, typename Fill>
grpc::ServerUnaryReactor* FinishFromReply(grpc::CallbackServerContext* context, EnginePort& engine,
                                          absl::StatusOr<CommandType> command, Fill fill) {
  if (!command.ok()) return FinishNow(context, command.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const Caller& caller = CallContext::Of(*context).caller();
  Attribute(caller, *command);
  if constexpr (requires { command->selector; }) {
    if (IsRestricted(caller)) {
      engine.Read([reactor, &engine, owner = caller.name, command = *std::move(command), fill = std::move(fill)](
                      const absl::Status& status, const View* view) mutable {
        const absl::Status allowed = status.ok() ? RestrictToOwn(*view, owner, command.selector) : status;
        if (!allowed.ok()) return reactor->Finish(ToGrpc(allowed));
        unary_internal::Submit(reactor, engine, std::move(command), std::move(fill));
      });
      return reactor;
    }
  }
  unary_internal::Submit(reactor, engine, *std::move(command), std::move(fill));
  return reactor;
}

/// `asked`, or the default if it is 0. INVALID_ARGUMENT if it is negative, RESOURCE_EXHAUSTED past the limit.
inline absl::StatusOr<int> PageSize(int asked, int size_default, int size_max) {
  if (asked >= 0 && asked <= size_max) return asked == 0 ? size_default : asked;
  const std::string message =
      fmt::format("page_size: is {}, must be from 1 to {}, or 0 for {}", asked, size_max, size_default);
  return asked < 0 ? absl::InvalidArgumentError(message) : absl::ResourceExhaustedError(message);
}

}  // namespace normlab::service
