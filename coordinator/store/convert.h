#pragma once

#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <google/protobuf/map.h>
#include <google/protobuf/timestamp.pb.h>

#include <map>
#include <string>

#include "coordinator/engine/effect.h"
#include "coordinator/engine/state.h"
#include "normlab/v1/storage.pb.h"

// Between the engine's structs and messages, stored or sent. All functions are pure; each FromStored fails with
// INVALID_ARGUMENT that says which field cannot be.
namespace normlab::store {

/// Times outside of what Timestamp can hold (years 1 to 9999) become the nearest that it can.
google::protobuf::Timestamp ToTimestamp(absl::Time time);
/// World sizes below resources.workers on which the run may go on with the same batch_size, largest first.
std::vector<int> SmallerWorlds(const v1::RunSpec& spec);
/// "front", "back" or "never"; a spec of before these words means "front".
engine::RequeuePolicy ToRequeuePolicy(const std::string& word);

v1::StoredUsage ToStored(const engine::Owner& owner);
engine::Owner FromStored(const v1::StoredUsage& stored);

absl::Time FromTimestamp(const google::protobuf::Timestamp& timestamp);

/// Copies a protobuf map of strings.
std::map<std::string, std::string> ToMap(const google::protobuf::Map<std::string, std::string>& map);

/// The run as a client sees it, layers included.
v1::Run ToProto(const engine::Run& run);
/// The experiment as a client sees it, without its spec and counts of its runs.
void FillWithoutSpec(const engine::Experiment& experiment, v1::Experiment& message);
v1::Event ToProto(const engine::EventRecord& event);
v1::LogEntry ToProto(const engine::LogRecord& record);
/// Only the report of the record's kind is set.
v1::StepHistory ToProto(const engine::HistoryRecord& record);

v1::StoredExperiment ToStored(const engine::Experiment& experiment);
absl::StatusOr<engine::Experiment> FromStored(const v1::StoredExperiment& stored);

/// A stored run is the merge of both parts, which do not say whose they are: their keys do. Only the moving one changes
/// after creation.
v1::StoredRun FixedPart(const engine::Run& run);
v1::StoredRun MovingPart(const engine::Run& run);
absl::StatusOr<engine::Run> FromStored(RunId id, const v1::StoredRun& stored);

}  // namespace normlab::store
