// Messages as people read them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "cli/table.h"
#include "cli/units.h"
#include "google/protobuf/map.h"
#include "google/protobuf/timestamp.pb.h"
#include "normlab/v1/run.pb.h"

namespace normlab::cli {

/// "just now", "12m 05s ago".
std::string AgoText(const google::protobuf::Timestamp& time, absl::Time now);
/// Local time, "2026-01-31 12:00:00".
std::string TimeText(const google::protobuf::Timestamp& time);
/// "2026-01-31 12:00:00 UTC", the same on every machine.
std::string UtcText(const google::protobuf::Timestamp& time);
absl::Time FromProto(const google::protobuf::Timestamp& time);
/// Of whole seconds.
google::protobuf::Timestamp ToProto(absl::Time time);
/// "a=1 b=2" in order of key.
std::string PairsText(const google::protobuf::Map<std::string, std::string>& pairs);
/// The values of the run's axes alone: "lns 1".
std::string AxesText(const v1::Run& run);

/// "RUNNING".
std::string StateName(v1::RunState state);
bool IsTerminalState(v1::RunState state);
/// The loss became non-finite, or stayed above the bound of the spec, and the run ended with that as its result.
bool HasDiverged(const v1::Run& run);
/// The state in its colour; a run that diverged says so.
Cell StateCell(const v1::Run& run);

/// What is stored of a run's reports, and what is missing: "reports of 598 steps from 1 to 600; 2 reports are missing
/// in 1 gap, between 119 and 122". Empty if there is nothing to say.
std::string HistoryText(const v1::HistorySummary& summary);

/// Time to the last step at the present speed; infinite if that is not known.
absl::Duration TimeLeft(const v1::Run& run);

}  // namespace normlab::cli
