#include "coordinator/engine/labels.h"

#include <absl/strings/str_join.h>
#include <fmt/format.h>

#include <algorithm>

namespace normlab::engine {

bool HasLabels(const Labels& labels, const Labels& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& pair) {
    const auto found = labels.find(pair.first);
    return found != labels.end() && found->second == pair.second;
  });
}

std::string LabelsText(const Labels& labels) { return absl::StrJoin(labels, ",", absl::PairFormatter("=")); }

std::string NamesText(const std::vector<std::string>& names) {
  constexpr size_t kNamesMax = 8;
  const size_t shown = std::min(names.size(), kNamesMax);
  std::string text = absl::StrJoin(names.begin(), names.begin() + static_cast<ptrdiff_t>(shown), ", ");
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

std::string NamesText(const std::vector<WorkerId>& workers) {
  std::vector<std::string> names;
  names.reserve(workers.size());
  for (const WorkerId& worker : workers) names.push_back(worker.name);
  return NamesText(names);
}

}  // namespace normlab::engine
