#include "cli/report/history.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "cli/format.h"

namespace normlab::report {
namespace {

using ReadLoss = std::optional<double> (*)(const v1::StepHistory&);
using ReadLayer = double (*)(const v1::LayerStats&);

Curve MakeCurve(const std::vector<const History*>& histories, ReadLoss read) {
  std::int64_t last_step = 0;
  for (const History* history : histories) {
    if (!history->empty()) last_step = std::max(last_step, history->back().step());
  }
  const std::int64_t stretch = (last_step + kCurvePointsMax - 1) / kCurvePointsMax;
  struct Sum {
    double steps = 0, values = 0;
    int count = 0;
  };
  // Stretch of steps -> one sum per run: a run that reports more often must not weigh more.
  std::map<std::int64_t, std::vector<Sum>> sums;
  for (std::size_t i = 0; i < histories.size(); ++i) {
    for (const v1::StepHistory& step : *histories[i]) {
      const std::optional<double> value = read(step);
      if (!value || !std::isfinite(*value)) continue;
      std::vector<Sum>& all = sums[(step.step() - 1) / stretch];
      all.resize(histories.size());
      all[i].steps += static_cast<double>(step.step());
      all[i].values += *value;
      ++all[i].count;
    }
  }
  Curve curve;
  for (const auto& [index, all] : sums) {
    Curve::Point point{.low = INFINITY, .high = -INFINITY};
    int runs = 0;
    for (const Sum& sum : all) {
      if (sum.count == 0) continue;
      const double mean = sum.values / sum.count;
      point.step += sum.steps / sum.count;
      point.mean += mean;
      point.low = std::min(point.low, mean);
      point.high = std::max(point.high, mean);
      ++runs;
    }
    point.step /= runs;
    point.mean /= runs;
    curve.points.push_back(point);
  }
  return curve;
}

/// Steps at which every history has a layer report of the same depth, with those reports.
std::map<std::int64_t, std::vector<const v1::LayerReport*>> CommonLayers(const std::vector<const History*>& histories) {
  std::map<std::int64_t, std::vector<const v1::LayerReport*>> reports;
  for (const History* history : histories) {
    for (const v1::StepHistory& step : *history) {
      if (step.has_layers()) reports[step.step()].push_back(&step.layers());
    }
  }
  std::erase_if(reports, [&](const auto& entry) {
    const auto& all = entry.second;
    return all.size() != histories.size() || std::any_of(all.begin(), all.end(), [&](const v1::LayerReport* report) {
             return report->layers_size() != all.front()->layers_size();
           });
  });
  return reports;
}

LayerProfile MeanProfile(std::int64_t step, const std::vector<const v1::LayerReport*>& reports, ReadLayer read) {
  LayerProfile profile{.step = step, .values = std::vector<double>(reports.front()->layers_size())};
  for (const v1::LayerReport* report : reports) {
    for (int i = 0; i < report->layers_size(); ++i) {
      profile.values[i] += read(report->layers(i)) / static_cast<double>(reports.size());
    }
  }
  return profile;
}

bool IsReserved(v1::RunState state) { return state == v1::STARTING || state == v1::RUNNING || state == v1::STOPPING; }

}  // namespace

Curve TrainLossCurve(const std::vector<const History*>& histories) {
  return MakeCurve(histories, [](const v1::StepHistory& step) {
    return step.has_report() ? std::optional(step.report().loss()) : std::nullopt;
  });
}

Curve ValidationLossCurve(const std::vector<const History*>& histories) {
  return MakeCurve(histories, [](const v1::StepHistory& step) {
    return step.has_eval() ? std::optional(step.eval().loss()) : std::nullopt;
  });
}

std::vector<LayerProfile> VarianceProfiles(const std::vector<const History*>& histories) {
  const auto reports = CommonLayers(histories);
  if (reports.empty()) return {};
  std::vector<std::int64_t> steps;
  for (const auto& [step, all] : reports) steps.push_back(step);
  const std::size_t count = std::min<std::size_t>(kProfilesMax, steps.size());
  std::vector<LayerProfile> profiles;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t step = count == 1 ? steps.back() : steps[i * (steps.size() - 1) / (count - 1)];
    profiles.push_back(
        MeanProfile(step, reports.at(step), [](const v1::LayerStats& s) { return s.output_variance(); }));
  }
  return profiles;
}

std::optional<LayerProfile> GradientNormProfile(const std::vector<const History*>& histories) {
  const auto reports = CommonLayers(histories);
  if (reports.empty()) return std::nullopt;
  const auto& [step, all] = *reports.rbegin();
  return MeanProfile(step, all, [](const v1::LayerStats& s) { return s.grad_norm(); });
}

double ReservedHours(const std::vector<v1::Event>& events) {
  absl::Duration reserved;
  std::optional<absl::Time> since;
  for (const v1::Event& event : events) {
    if (event.state() == v1::RUN_STATE_UNSPECIFIED) continue;
    const absl::Time time = cli::FromProto(event.time());
    if (since) reserved += time - *since;
    since = IsReserved(event.state()) ? std::optional(time) : std::nullopt;
  }
  return absl::ToDoubleHours(reserved);
}

}  // namespace normlab::report
