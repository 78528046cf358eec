// What normlab-analyze wrote, as a run's history keeps it. Pure.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "normlab/v1/analysis.pb.h"

namespace normlab::cli {

/// The text of an analysis.json as a message; a number that is null there is absent. INVALID_ARGUMENT if it is no such
/// file, or not of a checkpoint of a run; FAILED_PRECONDITION, with the field's name, if the loss or a distance is
/// null.
absl::StatusOr<v1::Analysis> ReadAnalysis(const std::string& text);

}  // namespace normlab::cli
