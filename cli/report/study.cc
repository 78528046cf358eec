#include "cli/report/study.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

namespace normlab::report {
namespace {

using ReadValue = std::optional<double> (*)(const v1::Analysis& analysis, const v1::LayerAnalysis& layer);

const v1::Analysis* NewestOf(const std::vector<v1::StepHistory>& history) {
  const auto newest =
      std::find_if(history.rbegin(), history.rend(), [](const auto& step) { return step.has_analysis(); });
  return newest == history.rend() ? nullptr : &newest->analysis();
}

std::optional<double> LossIncrease(const v1::Analysis& analysis, const v1::LayerAnalysis& layer) {
  return layer.has_loss_without() ? std::optional(layer.loss_without() - analysis.loss()) : std::nullopt;
}

std::optional<double> JacobianDistance(const v1::Analysis&, const v1::LayerAnalysis& layer) {
  return layer.has_jacobian_distance_median() ? std::optional(layer.jacobian_distance_median()) : std::nullopt;
}

/// Empty unless every layer of every analysis has the value.
LayerRange RangeOfAll(const std::vector<const v1::Analysis*>& analyses, ReadValue read) {
  LayerRange range;
  for (int i = 0; i < analyses.front()->layers_size(); ++i) {
    double sum = 0, low = INFINITY, high = -INFINITY;
    for (const v1::Analysis* analysis : analyses) {
      const std::optional<double> value = read(*analysis, analysis->layers(i));
      if (!value) return {};
      sum += *value;
      low = std::min(low, *value);
      high = std::max(high, *value);
    }
    range.mean.push_back(sum / static_cast<double>(analyses.size()));
    range.low.push_back(low);
    range.high.push_back(high);
  }
  return range;
}

/// Empty unless every analysis has all distances.
std::vector<std::vector<double>> MeanDistances(const std::vector<const v1::Analysis*>& analyses) {
  const int num_layers = analyses.front()->layers_size();
  std::vector<std::vector<double>> distances;
  for (int i = 0; i < num_layers; ++i) {
    std::vector<double>& row = distances.emplace_back(static_cast<std::size_t>(num_layers - i));
    for (const v1::Analysis* analysis : analyses) {
      const auto& measured = analysis->layers(i).angular_distance();
      if (measured.size() != num_layers - i) return {};
      for (int n = 0; n < measured.size(); ++n) row[n] += measured[n] / static_cast<double>(analyses.size());
    }
  }
  return distances;
}

bool HasStarted(const v1::Event& event) { return event.state() == v1::RUNNING; }

/// One for each attempt that is known to have started with it: of the events, or, where retention removed them, that of
/// the last attempt.
std::vector<const v1::AttemptEnvironment*> KnownEnvironments(const RunRecord& record) {
  std::vector<const v1::AttemptEnvironment*> known;
  for (const v1::Event& event : record.events) {
    if (HasStarted(event) && event.has_environment()) known.push_back(&event.environment());
  }
  if (known.empty() && record.has_events_expired && record.run.has_environment()) {
    known.push_back(&record.run.environment());
  }
  return known;
}

}  // namespace

std::optional<LayerStudy> MeanStudy(const std::vector<const std::vector<v1::StepHistory>*>& histories) {
  std::vector<const v1::Analysis*> analyses;
  for (const auto* history : histories) {
    const v1::Analysis* newest = NewestOf(*history);
    if (newest == nullptr || newest->layers().empty()) continue;
    if (analyses.empty() || newest->layers_size() == analyses.front()->layers_size()) analyses.push_back(newest);
  }
  if (analyses.empty()) return std::nullopt;
  std::set<std::int64_t> steps;
  for (const v1::Analysis* analysis : analyses) steps.insert(analysis->step());
  return LayerStudy{.num_runs = static_cast<int>(analyses.size()),
                    .steps = {steps.begin(), steps.end()},
                    .removal = RangeOfAll(analyses, LossIncrease),
                    .jacobian = RangeOfAll(analyses, JacobianDistance),
                    .distances = MeanDistances(analyses)};
}

std::vector<Environment> EnvironmentsOf(const std::vector<RunRecord>& runs) {
  std::vector<Environment> environments;
  std::map<std::tuple<std::string, std::string, std::string, std::string, std::string>, std::size_t> places;
  for (const RunRecord& record : runs) {
    for (const v1::AttemptEnvironment* with : KnownEnvironments(record)) {
      const std::tuple key(with->worker_build(), with->started().torch_version(), with->started().device(),
                           with->worker_host(), with->coordinator_build());
      const auto [place, is_new] = places.emplace(key, environments.size());
      if (is_new) {
        environments.push_back({.worker_build = with->worker_build(),
                                .torch_version = with->started().torch_version(),
                                .device = with->started().device(),
                                .worker_host = with->worker_host(),
                                .coordinator_build = with->coordinator_build()});
      }
      Environment& environment = environments[place->second];
      ++environment.attempts;
      if (environment.runs.empty() || environment.runs.back() != record.run.id()) {
        environment.runs.push_back(record.run.id());
      }
    }
  }
  return environments;
}

int CountUnknownEnvironments(const std::vector<RunRecord>& runs) {
  int count = 0;
  for (const RunRecord& record : runs) {
    std::set<int> started;  // An attempt has more than one event while it runs.
    for (const v1::Event& event : record.events) {
      if (HasStarted(event)) started.insert(event.attempt());
    }
    const int attempts = record.has_events_expired ? record.run.attempt() : static_cast<int>(started.size());
    count += std::max(0, attempts - static_cast<int>(KnownEnvironments(record).size()));
  }
  return count;
}

bool AreMixed(const std::vector<Environment>& environments) {
  return std::any_of(environments.begin(), environments.end(), [&](const Environment& other) {
    const Environment& first = environments.front();
    return std::tie(other.worker_build, other.torch_version, other.device) !=
           std::tie(first.worker_build, first.torch_version, first.device);
  });
}

}  // namespace normlab::report
