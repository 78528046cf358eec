// What `normlab analyze` added to the histories of runs, and what the runs were made with. Pure.
#pragma once

#include <optional>
#include <vector>

#include "cli/report/report.h"

namespace normlab::report {

/// The newest analysis of each of `histories` that has one, as many of them as are as deep as the first; nullopt if
/// none has one.
std::optional<LayerStudy> MeanStudy(const std::vector<const std::vector<v1::StepHistory>*>& histories);

/// From the events by which attempts started.
std::vector<Environment> EnvironmentsOf(const std::vector<RunRecord>& runs);
/// Attempts that started and left no environment.
int CountUnknownEnvironments(const std::vector<RunRecord>& runs);

/// Whether what trained the runs differs: builds, LibTorch or device; where and by which coordinator does not matter.
bool AreMixed(const std::vector<Environment>& environments);

}  // namespace normlab::report
