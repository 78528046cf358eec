// Means over seeds of what the trainers reported step by step. Pure.
#pragma once

#include <optional>
#include <vector>

#include "cli/report/report.h"

namespace normlab::report {

/// Reports of one run, in order of step.
using History = std::vector<v1::StepHistory>;

/// Most points of a curve: longer ones are averaged over equal stretches of steps.
inline constexpr int kCurvePointsMax = 160;
/// Most steps for which the layers are shown.
inline constexpr int kProfilesMax = 6;

/// Loss of the training batches; non-finite values are left out.
Curve TrainLossCurve(const std::vector<const History*>& histories);
/// Loss on held-out text.
Curve ValidationLossCurve(const std::vector<const History*>& histories);
/// Output variance by layer at up to kProfilesMax of the steps at which all histories have a layer report: the first,
/// the last and between.
std::vector<LayerProfile> VarianceProfiles(const std::vector<const History*>& histories);
/// Norm of the gradient by layer at the last step at which all histories have a layer report.
std::optional<LayerProfile> GradientNormProfile(const std::vector<const History*>& histories);

/// Hours in which a gang was reserved for the run, from its events.
double ReservedHours(const std::vector<v1::Event>& events);

}  // namespace normlab::report
