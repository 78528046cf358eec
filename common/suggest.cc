#include "common/suggest.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "fmt/format.h"

namespace normlab {
namespace {

char Lower(char c) { return absl::ascii_tolower(static_cast<unsigned char>(c)); }

/// Optimal string alignment distance, ignoring case.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = Lower(a[i - 1]) == Lower(b[j - 1]);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && Lower(a[i - 1]) == Lower(b[j - 2]) && Lower(a[i - 2]) == Lower(b[j - 1]);
      if (swapped) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    std::swap(before_last, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

}  // namespace

std::optional<std::string> NearestName(std::string_view given, const std::vector<std::string>& known) {
  // A longer word is no slip of a name we know; this also bounds the cost for hostile input.
  if (given.empty() || given.size() > 100) return std::nullopt;
  std::optional<std::string> nearest;
  size_t nearest_distance = 0;
  for (const std::string& name : known) {
    const size_t distance = EditDistance(given, name);
    if (distance > std::max<size_t>(1, std::max(given.size(), name.size()) / 3)) continue;
    if (!nearest || distance < nearest_distance) {
      nearest = name;
      nearest_distance = distance;
    }
  }
  return nearest;
}

std::string DidYouMean(std::string_view given, const std::vector<std::string>& known) {
  const std::optional<std::string> nearest = NearestName(given, known);
  return nearest ? fmt::format("; did you mean '{}'?", *nearest) : std::string();
}

}  // namespace normlab
