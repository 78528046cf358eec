#pragma once

#include <absl/status/statusor.h>

#include "coordinator/engine/command.h"
#include "coordinator/engine/effect.h"
#include "coordinator/engine/transaction.h"

// One function per command. Each checks everything first: a refused command has changed nothing.
namespace normlab::engine {

absl::StatusOr<Reply> Handle(Transaction& tx, const CreateExperiment& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const CancelRuns& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const RequeueRuns& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const UpdateRuns& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const RecordAnalysis& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const CordonWorker& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const WorkerHello& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const WorkerHeartbeat& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const WorkerDraining& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const WorkerDisconnected& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const WorkerReport& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const PlaceRun& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const PreemptRun& command);
absl::StatusOr<Reply> Handle(Transaction& tx, const Tick& command);

}  // namespace normlab::engine
