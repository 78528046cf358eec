// The map between our statuses and gRPC's; the codes have the same numbers and meanings.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace normlab {

/// Same code, same message (messages may have several lines, one per violation).
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace normlab
