// Reads {"samples": [[...], ...], "p_values": [...]} and writes what statistics.h makes of them, so that another
// program can be asked the same.
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/report/statistics.h"

namespace {

nlohmann::json OrNull(const std::optional<double>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

}  // namespace

int main() {
  using normlab::report::PairedTest;
  const nlohmann::json input = nlohmann::json::parse(std::cin);
  nlohmann::json tests = nlohmann::json::array(), adjusted = nlohmann::json::array();
  for (const nlohmann::json& sample : input["samples"]) {
    const PairedTest test = normlab::report::TestPairs(sample.get<std::vector<double>>());
    tests.push_back({{"mean", test.difference.value},
                     {"deviation", OrNull(test.difference.deviation)},
                     {"half_width", OrNull(test.difference.half_width)},
                     {"t", OrNull(test.t)},
                     {"p", OrNull(test.p)},
                     {"power", OrNull(test.power)},
                     {"detectable", OrNull(test.detectable_difference)}});
  }
  std::vector<std::optional<double>> p_values;
  for (const nlohmann::json& p : input["p_values"]) {
    p_values.push_back(p.is_null() ? std::nullopt : std::optional(p.get<double>()));
  }
  for (const std::optional<double>& p : normlab::report::HolmAdjusted(p_values)) adjusted.push_back(OrNull(p));
  std::cout << nlohmann::json({{"tests", tests}, {"adjusted", adjusted}}) << "\n";
}
