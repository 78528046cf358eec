#include "cli/report/report.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "cli/format.h"
#include "cli/report/history.h"
#include "cli/report/study.h"
#include "common/status.h"
#include "common/suggest.h"
#include "fmt/format.h"

namespace normlab::report {
namespace {

constexpr char kSeedAxis[] = "seed";
constexpr char kRateAxis[] = "train.lr";

std::string AxisOr(const v1::Run& run, const std::string& axis, const std::string& fallback) {
  const auto it = run.axes().find(axis);
  return it == run.axes().end() ? fallback : it->second;
}

using Axes = std::map<std::string, std::string>;

bool IsNormAxis(std::string_view axis) { return axis.starts_with("norm."); }

std::string Pairs(const Axes& axes) {
  std::string text;
  for (const auto& [axis, value] : axes) text += fmt::format("{}{}={}", text.empty() ? "" : " ", axis, value);
  return text;
}

/// The value alone if there is one axis, else pairs.
std::string Label(const Axes& axes) { return axes.size() == 1 ? axes.begin()->second : Pairs(axes); }

/// An arm without runs: all axes but seed and rate.
Arm ArmOf(const v1::Run& run) {
  Axes all(run.axes().begin(), run.axes().end()), norm, others;
  all.erase(kSeedAxis);
  all.erase(kRateAxis);
  for (const auto& [axis, value] : all) (IsNormAxis(axis) ? norm : others)[axis] = value;
  return {
      .label = all.empty() ? run.spec().norm().scheme() : Label(all), .norm = Label(norm), .setting = Pairs(others)};
}

std::string OutcomeOf(const v1::Run& run) {
  if (run.state() == v1::SUCCEEDED) return cli::HasDiverged(run) ? "diverged" : "succeeded";
  if (run.state() == v1::FAILED) return "failed";
  if (run.state() == v1::CANCELLED) return "cancelled";
  return "not finished";
}

RunSummary Summarize(const RunRecord& record) {
  const v1::Run& run = record.run;
  RunSummary summary{
      .id = run.id(), .outcome = OutcomeOf(run), .attempts = run.attempt(), .tokens = run.progress().tokens()};
  if (!record.has_events_expired) {
    summary.worker_hours = ReservedHours(record.events) * run.spec().resources().workers();
  }
  if (summary.outcome == "succeeded" && run.progress().has_eval()) summary.loss = run.progress().eval().loss();
  if (summary.outcome != "succeeded") {
    summary.reason = run.reason();
  } else {
    for (const v1::Event& event : record.events) {
      if (event.state() == v1::QUEUED && event.attempt() > 0) summary.reason = event.reason();
    }
  }
  return summary;
}

Group MakeGroup(const std::string& lr, const std::vector<const RunRecord*>& records) {
  Group group{.lr = lr, .num_runs = static_cast<int>(records.size())};
  std::vector<const RunRecord*> good;
  std::vector<double> losses;
  for (const RunRecord* record : records) {
    group.runs.push_back(Summarize(*record));
    const RunSummary& summary = group.runs.back();
    group.num_diverged += summary.outcome == "diverged";
    if (!summary.loss) continue;
    good.push_back(record);
    losses.push_back(*summary.loss);
    group.loss_by_seed[std::to_string(record->run.spec().seed())] = *summary.loss;
  }
  if (!losses.empty()) {
    group.loss = MeanOf(losses);
    group.perplexity = std::exp(group.loss->value);
  }
  // A group with nothing good still shows how it went wrong.
  const std::vector<const RunRecord*>& shown = good.empty() ? records : good;
  std::vector<const std::vector<v1::StepHistory>*> histories;
  for (const RunRecord* record : shown) histories.push_back(&record->history);
  group.train_loss = TrainLossCurve(histories);
  group.validation_loss = ValidationLossCurve(histories);
  group.variance = VarianceProfiles(histories);
  group.gradient_norm = GradientNormProfile(histories);
  group.study = MeanStudy(histories);
  if (!group.study && !good.empty()) group.run_to_analyze = good.front()->run.id();
  return group;
}

std::size_t BestGroup(const std::vector<Group>& groups) {
  // One lucky seed out of three must not choose the rate: groups in which more runs ended well come first.
  const auto key = [](const Group& group) {
    return std::pair(-static_cast<int>(group.loss_by_seed.size()), group.loss ? group.loss->value : INFINITY);
  };
  return std::min_element(groups.begin(), groups.end(),
                          [&](const Group& a, const Group& b) { return key(a) < key(b); }) -
         groups.begin();
}

Comparison Compare(const Arm& arm, const Group& group, const Arm& baseline_arm, const Group& baseline) {
  Comparison comparison{.arm = arm.label, .baseline = baseline_arm.label, .lr = group.lr, .baseline_lr = baseline.lr};
  std::vector<double> differences;
  for (const auto& [seed, loss] : group.loss_by_seed) {
    const auto other = baseline.loss_by_seed.find(seed);
    if (other != baseline.loss_by_seed.end()) differences.push_back(loss - other->second);
  }
  const int paired = static_cast<int>(differences.size());
  comparison.unpaired =
      static_cast<int>(group.loss_by_seed.size()) + static_cast<int>(baseline.loss_by_seed.size()) - 2 * paired;
  if (paired > 0) comparison.test = TestPairs(differences);
  return comparison;
}

void Correct(ComparisonFamily* family) {
  std::vector<std::optional<double>> p_values;
  for (const Comparison& comparison : family->comparisons) p_values.push_back(comparison.test.p);
  const std::vector<std::optional<double>> adjusted = HolmAdjusted(p_values);
  for (std::size_t i = 0; i < adjusted.size(); ++i) family->comparisons[i].holm_p = adjusted[i];
}

/// The arm that `arm` is compared with; null if there is none.
const Arm* BaselineOf(const Arm& arm, const std::string& baseline, const std::vector<Arm>& arms) {
  const auto find = [&](const auto& is_it) {
    const auto found = std::find_if(arms.begin(), arms.end(), is_it);
    return found == arms.end() ? nullptr : &*found;
  };
  if (const Arm* whole = find([&](const Arm& other) { return other.label == baseline; })) return whole;
  return find([&](const Arm& other) { return other.norm == baseline && other.setting == arm.setting; });
}

/// An arm and what it is compared with.
using ArmPair = std::pair<const Arm*, const Arm*>;

/// Setting by setting in the order of `settings`, and in the order of arms.
std::vector<ArmPair> PairsOf(const std::string& baseline, const std::vector<Arm>& arms,
                             const std::vector<std::string>& settings) {
  std::vector<ArmPair> pairs;
  for (const std::string& setting : settings) {
    for (const Arm& arm : arms) {
      if (arm.setting != setting) continue;
      const Arm* other = BaselineOf(arm, baseline, arms);
      if (other != nullptr && other != &arm) pairs.emplace_back(&arm, other);
    }
  }
  return pairs;
}

std::vector<ComparisonFamily> CompareAll(const std::vector<ArmPair>& pairs, const std::vector<std::string>& rates) {
  std::vector<ComparisonFamily> families;
  ComparisonFamily best{.title = rates.empty() ? "" : "Each arm at its best learning rate"};
  for (const auto& [arm, other] : pairs) {
    best.comparisons.push_back(Compare(*arm, arm->groups[arm->best], *other, other->groups[other->best]));
  }
  families.push_back(std::move(best));
  if (rates.size() > 1) {
    for (std::size_t rate = 0; rate < rates.size(); ++rate) {
      ComparisonFamily family{.title = fmt::format("At learning rate {}", rates[rate])};
      for (const auto& [arm, other] : pairs) {
        family.comparisons.push_back(Compare(*arm, arm->groups[rate], *other, other->groups[rate]));
      }
      families.push_back(std::move(family));
    }
  }
  for (ComparisonFamily& family : families) Correct(&family);
  return families;
}

/// Arms in order of the matrix, each with one group per rate.
std::vector<Arm> MakeArms(const Input& input, const std::vector<std::string>& rates) {
  std::vector<Arm> arms;
  std::map<std::string, std::map<std::string, std::vector<const RunRecord*>>> records;
  for (const RunRecord& record : input.runs) {
    Arm arm = ArmOf(record.run);
    const std::string label = arm.label;
    if (!records.contains(label)) arms.push_back(std::move(arm));
    records[label][AxisOr(record.run, kRateAxis, "")].push_back(&record);
  }
  for (Arm& arm : arms) {
    for (const std::string& rate : rates.empty() ? std::vector<std::string>{""} : rates) {
      arm.groups.push_back(MakeGroup(rate, records[arm.label][rate]));
    }
    arm.best = BestGroup(arm.groups);
  }
  return arms;
}

std::vector<std::string> RatesOf(const Input& input) {
  std::set<std::pair<double, std::string>> rates;
  for (const RunRecord& record : input.runs) {
    const std::string rate = AxisOr(record.run, kRateAxis, "");
    if (!rate.empty()) rates.emplace(record.run.spec().train().lr(), rate);
  }
  std::vector<std::string> names;
  for (const auto& [value, name] : rates) names.push_back(name);
  return names;
}

std::vector<Axis> AxesOf(const Input& input) {
  std::map<std::string, std::vector<std::string>> axes;
  for (const RunRecord& record : input.runs) {
    for (const auto& [axis, value] : record.run.axes()) {
      std::vector<std::string>& values = axes[axis];
      if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
    }
  }
  std::vector<Axis> list;
  for (const auto& [axis, values] : axes) list.push_back({axis, values});
  return list;
}

absl::StatusOr<std::string> ChooseBaseline(const std::vector<Arm>& arms, const std::string& wanted) {
  std::vector<std::string> known;  // Norms first: where a word is both, they are the same.
  for (const Arm& arm : arms) known.push_back(arm.norm);
  for (const Arm& arm : arms) known.push_back(arm.label);
  const auto has = [&](const std::string& label) {
    return std::find(known.begin(), known.end(), label) != known.end();
  };
  if (!wanted.empty()) {
    if (has(wanted)) return wanted;
    return absl::InvalidArgumentError(fmt::format("--baseline: '{}' is neither a norm nor an arm of this experiment{}",
                                                  wanted, DidYouMean(wanted, known)));
  }
  return has("pre_ln") ? "pre_ln" : arms.front().norm.empty() ? arms.front().label : arms.front().norm;
}

/// Names of the axes that make settings, if an arm's baseline is that of its setting.
std::vector<std::string> SharedAxes(const Report& report) {
  for (const Arm& arm : report.arms) {
    if (arm.label == report.baseline) return {};
  }
  std::vector<std::string> names;
  for (const Axis& axis : report.axes) {
    if (axis.name != kSeedAxis && axis.name != kRateAxis && !IsNormAxis(axis.name)) names.push_back(axis.name);
  }
  return names;
}

}  // namespace

absl::StatusOr<Report> MakeReport(const Input& input, const std::string& baseline) {
  if (input.runs.empty()) {
    return absl::InvalidArgumentError(fmt::format("{} has no runs to report", input.experiment.id()));
  }
  Report report{.experiment = input.experiment,
                .axes = AxesOf(input),
                .learning_rates = RatesOf(input),
                .environments = EnvironmentsOf(input.runs),
                .attempts_unknown = CountUnknownEnvironments(input.runs),
                .coordinator_build = input.coordinator_build,
                .report_build = input.report_build};
  std::set<std::int64_t> seeds;
  for (const RunRecord& record : input.runs) {
    seeds.insert(record.run.spec().seed());
    report.is_complete = report.is_complete && cli::IsTerminalState(record.run.state());
  }
  report.num_seeds = static_cast<int>(seeds.size());
  report.arms = MakeArms(input, report.learning_rates);
  NORMLAB_ASSIGN_OR_RETURN(report.baseline, ChooseBaseline(report.arms, baseline));
  report.shared_axes = SharedAxes(report);
  std::vector<std::string> settings;
  for (const Arm& arm : report.arms) {
    if (std::find(settings.begin(), settings.end(), arm.setting) == settings.end()) settings.push_back(arm.setting);
  }
  std::stable_sort(report.arms.begin(), report.arms.end(), [](const Arm& a, const Arm& b) {
    const auto loss = [](const Arm& arm) {
      const auto& mean = arm.groups[arm.best].loss;
      return mean ? mean->value : INFINITY;
    };
    return loss(a) < loss(b);
  });
  report.families = CompareAll(PairsOf(report.baseline, report.arms, settings), report.learning_rates);
  return report;
}

}  // namespace normlab::report
