#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <fmt/format.h>
#include <grpcpp/support/server_callback.h>

#include <utility>

#include "common/grpc_status.h"
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

/// Submits `command`; if it is not refused, `fill(reply, view)` writes the response on the engine's thread. Ends at
/// once if the command could not be made of the request.
template <typename CommandType, typename Fill>
grpc::ServerUnaryReactor* FinishFromReply(grpc::CallbackServerContext* context, EnginePort& engine,
                                          absl::StatusOr<CommandType> command, Fill fill) {
  if (!command.ok()) return FinishNow(context, command.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  engine.Submit(*std::move(command),
                [reactor, fill = std::move(fill)](const absl::StatusOr<engine::Reply>& reply, const View* view) {
                  if (reply.ok()) fill(*reply, *view);
                  reactor->Finish(ToGrpc(reply.status()));
                });
  return reactor;
}

/// `asked`, or the default if it is 0. INVALID_ARGUMENT if it is negative or past the limit.
inline absl::StatusOr<int> PageSize(int asked, int size_default, int size_max) {
  if (asked >= 0 && asked <= size_max) return asked == 0 ? size_default : asked;
  return absl::InvalidArgumentError(
      fmt::format("page_size: is {}, must be from 1 to {}, or 0 for {}", asked, size_max, size_default));
}

}  // namespace normlab::service
