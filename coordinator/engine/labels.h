#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/ids.h"

namespace normlab::engine {

using Labels = std::map<std::string, std::string>;

/// Whether `labels` has every pair of `wanted`.
bool HasLabels(const Labels& labels, const Labels& wanted);

/// "gpu=h100,zone=a".
std::string LabelsText(const Labels& labels);

/// "w1, w2"; a long list ends with how many were left out.
std::string NamesText(const std::vector<std::string>& names);
std::string NamesText(const std::vector<WorkerId>& workers);

}  // namespace normlab::engine
