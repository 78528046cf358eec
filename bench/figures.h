#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace normlab::bench {

/// One measured number with its spread.
struct Figure {
  std::string name;
  double value = 0;
  std::string unit;
  double min = 0;
  double max = 0;
  size_t n = 0;  // Samples behind it.
};

/// The `fraction` quantile (0 to 1, nearest rank) of at least one sample.
double Quantile(std::vector<double> samples, double fraction);

/// A figure whose value is the `fraction` quantile of `samples`, which must not be empty.
Figure Summarize(std::string name, std::string unit, const std::vector<double>& samples, double fraction = 0.5);

/// "NAME VALUE UNIT (min..max, n)".
std::string ToLine(const Figure& figure);

/// CPU, cores, kernel, and the file system of `folder`.
nlohmann::json DescribeMachine(const std::string& folder);

/// Writes figures, versions and machine as one JSON document.
absl::Status WriteJson(const std::string& path, const std::vector<Figure>& figures, const nlohmann::json& versions,
                       const nlohmann::json& machine);

}  // namespace normlab::bench
