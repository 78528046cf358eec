#pragma once

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/strip.h>
#include <fmt/format.h>

#include <compare>
#include <cstdint>
#include <optional>
#include <string>

// Ids are types, so that two kinds cannot be swapped. Experiments and runs are numbered by the coordinator; their text
// form is what users, logs, folders and metrics see: "exp-0001" and "exp-0001.03". Order is by number, not by text.
namespace normlab {

struct ExperimentId {
  int64_t number = 0;  // From 1.

  auto operator<=>(const ExperimentId&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const ExperimentId& id) {
    return H::combine(std::move(h), id.number);
  }

  std::string ToString() const { return fmt::format("exp-{:04}", number); }

  /// "exp-0001" (any number of digits); nullopt for anything else.
  static std::optional<ExperimentId> Parse(const std::string& text) {
    ExperimentId id;
    absl::string_view digits = text;
    if (!absl::ConsumePrefix(&digits, "exp-") || digits.empty() || !absl::ascii_isdigit(digits[0]) ||
        !absl::SimpleAtoi(digits, &id.number) || id.number < 1) {
      return std::nullopt;
    }
    return id;
  }
};

struct RunId {
  ExperimentId experiment;
  int32_t index = 0;  // Place in the experiment's matrix, from 1.

  auto operator<=>(const RunId&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const RunId& id) {
    return H::combine(std::move(h), id.experiment, id.index);
  }

  std::string ToString() const { return fmt::format("{}.{:02}", experiment.ToString(), index); }

  /// "exp-0001.03"; nullopt for anything else.
  static std::optional<RunId> Parse(const std::string& text) {
    const size_t dot = text.find('.');
    if (dot == std::string::npos) return std::nullopt;
    const auto experiment = ExperimentId::Parse(text.substr(0, dot));
    RunId id;
    if (!experiment || dot + 1 == text.size() || !absl::ascii_isdigit(text[dot + 1]) ||
        !absl::SimpleAtoi(text.substr(dot + 1), &id.index) || id.index < 1) {
      return std::nullopt;
    }
    id.experiment = *experiment;
    return id;
  }
};

/// A worker's stable name, chosen by whoever starts it ("host-0").
struct WorkerId {
  std::string name;

  auto operator<=>(const WorkerId&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const WorkerId& id) {
    return H::combine(std::move(h), id.name);
  }
  const std::string& ToString() const { return name; }
};

}  // namespace normlab
