#include "cli/report/tables.h"

#include <algorithm>
#include <cmath>

#include "cli/units.h"
#include "common/growth_fit.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::report {
namespace {

constexpr char kNone[] = "–";

std::string Fixed(const std::optional<double>& value, int digits) {
  return value ? fmt::format("{:.{}f}", *value, digits) : kNone;
}

std::string Signed(const std::optional<double>& value, int digits) {
  return value ? fmt::format("{:+.{}f}", *value, digits) : kNone;
}

std::string Probability(const std::optional<double>& p) {
  if (!p) return kNone;
  return *p < 0.001 ? "< 0.001" : fmt::format("{:.3f}", *p);
}

std::string Interval(const Mean& mean, int digits, bool is_signed) {
  if (!mean.half_width) return kNone;
  const double low = mean.value - *mean.half_width, high = mean.value + *mean.half_width;
  return is_signed ? fmt::format("{:+.{}f} to {:+.{}f}", low, digits, high, digits)
                   : fmt::format("{:.{}f} to {:.{}f}", low, digits, high, digits);
}

std::string OutcomeText(const Group& group) {
  std::string text = fmt::format("{}/{} ok", group.loss_by_seed.size(), group.num_runs);
  if (group.num_diverged > 0) text += fmt::format(", {} diverged", group.num_diverged);
  return text;
}

std::string LossText(const Group& group) {
  if (group.loss) return fmt::format("{:.4f}", group.loss->value);
  return group.num_runs > 0 && group.num_diverged == group.num_runs ? "diverged" : kNone;
}

std::string GrowthText(const std::vector<double>& values) {
  const std::optional<GrowthFit> fit = FitGrowth(values);
  return fit ? fmt::format("{:.2f}", fit->power.rate) : kNone;
}

}  // namespace

TextTable ResultTable(const Report& report) {
  const bool has_rates = !report.learning_rates.empty();
  TextTable table{.title = "Final validation loss",
                  .note = fmt::format("Nats per token on held-out text; mean over seeds with its {:.0f} % confidence "
                                      "interval (Student's t). Perplexity is exp of the mean loss. {}",
                                      100 * kConfidence, has_rates ? "Each arm at its best learning rate." : "")};
  table.header = {"arm"};
  table.is_number = {false};
  if (has_rates) table.header.push_back("learning rate"), table.is_number.push_back(true);
  for (const char* title : {"seeds", "loss", "95 % interval", "std. dev.", "perplexity"}) {
    table.header.push_back(title);
    table.is_number.push_back(true);
  }
  table.header.push_back("runs");
  table.is_number.push_back(false);
  for (const Arm& arm : report.arms) {
    const Group& group = arm.groups[arm.best];
    std::vector<std::string> row = {arm.label};
    if (has_rates) row.push_back(group.lr);
    row.push_back(std::to_string(group.loss_by_seed.size()));
    row.push_back(LossText(group));
    row.push_back(group.loss ? Interval(*group.loss, 4, false) : kNone);
    row.push_back(group.loss ? Fixed(group.loss->deviation, 4) : kNone);
    row.push_back(Fixed(group.perplexity, 2));
    row.push_back(OutcomeText(group));
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::vector<TextTable> ComparisonTables(const Report& report) {
  std::vector<TextTable> tables;
  for (const ComparisonFamily& family : report.families) {
    const std::string against = report.shared_axes.empty() ? report.baseline
                                                           : fmt::format("{} of the same {}", report.baseline,
                                                                         fmt::join(report.shared_axes, " and "));
    TextTable table{.title = family.title.empty() ? fmt::format("Against {}", against)
                                                  : fmt::format("{}, against {}", family.title, against)};
    table.note = fmt::format(
        "loss(arm) − loss({}) of the same seed; negative is better. Paired t test, p corrected after Holm over this "
        "table. d is Cohen's effect size for pairs; power that of this test for the effect seen; detectable: the "
        "smallest true difference that so many seeds find with power {}.",
        against, kUsualPower);
    table.header = {"arm", "pairs", "difference", "95 % interval", "p", "p (Holm)", "d", "power", "detectable"};
    table.is_number = {false, true, true, true, true, true, true, true, true};
    for (const Comparison& comparison : family.comparisons) {
      const PairedTest& test = comparison.test;
      const bool has_pairs = test.difference.n > 0;
      table.rows.push_back(
          {comparison.arm, std::to_string(test.difference.n), has_pairs ? Signed(test.difference.value, 4) : kNone,
           has_pairs ? Interval(test.difference, 4, true) : kNone, Probability(test.p), Probability(comparison.holm_p),
           Signed(test.effect_size, 2), Fixed(test.power, 2), Fixed(test.detectable_difference, 4)});
    }
    if (!table.rows.empty()) tables.push_back(std::move(table));
  }
  return tables;
}

TextTable RateTable(const Report& report) {
  TextTable table{.title = "Loss by learning rate", .note = "Mean over seeds; the best of each arm is marked *."};
  if (report.learning_rates.size() < 2) return table;
  table.header = {"arm"};
  table.is_number = {false};
  for (const std::string& rate : report.learning_rates) table.header.push_back(rate), table.is_number.push_back(true);
  for (const Arm& arm : report.arms) {
    std::vector<std::string> row = {arm.label};
    for (std::size_t i = 0; i < arm.groups.size(); ++i) {
      row.push_back(LossText(arm.groups[i]) + (i == arm.best && arm.groups[i].loss ? " *" : ""));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

TextTable LayerTable(const Report& report) {
  TextTable table{.title = "Output variance by layer at the end",
                  .note =
                      "Variance of the residual stream behind a layer, mean over tokens and seeds. Growth is p of the "
                      "least-squares fit variance = c · layer^p.",
                  .header = {"arm", "layers", "first", "middle", "last", "growth p"},
                  .is_number = {false, true, true, true, true, true}};
  for (const Arm& arm : report.arms) {
    const Group& group = arm.groups[arm.best];
    if (group.variance.empty()) continue;
    const std::vector<double>& values = group.variance.back().values;
    table.rows.push_back({arm.label, std::to_string(values.size()), cli::ValueOf(values.front()),
                          cli::ValueOf(values[(values.size() - 1) / 2]), cli::ValueOf(values.back()),
                          GrowthText(values)});
  }
  return table;
}

TextTable RemovalTable(const Report& report) {
  TextTable table{.title = "Loss when one layer is removed",
                  .note =
                      "Loss without the layer minus the loss, nats per token, mean over analyzed runs; nothing is "
                      "trained again. Idle layers: those whose removal costs less than a tenth of the median.",
                  .header = {"arm", "analyzed", "step", "least (layer)", "median", "most (layer)", "idle layers"},
                  .is_number = {false, true, true, true, true, true, true}};
  for (const Arm& arm : report.arms) {
    const auto& study = arm.groups[arm.best].study;
    if (!study || study->removal.mean.empty()) continue;
    const std::vector<double>& costs = study->removal.mean;
    const auto text = [&](auto place) { return fmt::format("{:+.4f} ({})", *place, place - costs.begin() + 1); };
    std::vector<double> sorted = costs;
    std::sort(sorted.begin(), sorted.end());
    const double median = (sorted[(sorted.size() - 1) / 2] + sorted[sorted.size() / 2]) / 2;
    const auto idle = std::count_if(costs.begin(), costs.end(), [&](double cost) { return cost < 0.1 * median; });
    // Where half of the layers cost nothing, a tenth of the median is no measure.
    const std::string idle_text = median > 0 ? std::to_string(idle) : kNone;
    table.rows.push_back({arm.label, std::to_string(study->num_runs), fmt::format("{}", fmt::join(study->steps, ", ")),
                          text(std::min_element(costs.begin(), costs.end())), Signed(median, 4),
                          text(std::max_element(costs.begin(), costs.end())), idle_text});
  }
  return table;
}

TextTable EnvironmentTable(const Report& report) {
  TextTable table{.title = "Environment and exact versions",
                  .note = fmt::format("Of rank 0 of each attempt, as it said when it started. This report: normlab {}, "
                                      "from a coordinator of build {}.",
                                      report.report_build, report.coordinator_build),
                  .header = {"normlab", "LibTorch", "device", "host", "coordinator", "attempts", "runs"},
                  .is_number = {false, false, false, false, false, true, false}};
  for (const Environment& with : report.environments) {
    const std::string runs =
        with.runs.size() == 1 ? with.runs.front()
                              : fmt::format("{}, from {} to {}", with.runs.size(), with.runs.front(), with.runs.back());
    table.rows.push_back({with.worker_build, with.torch_version, with.device, with.worker_host, with.coordinator_build,
                          std::to_string(with.attempts), runs});
  }
  if (report.attempts_unknown > 0) {
    table.rows.push_back({"not recorded", kNone, kNone, kNone, kNone, std::to_string(report.attempts_unknown), kNone});
  }
  return table;
}

TextTable CostTable(const Report& report) {
  TextTable table{
      .title = "Cost",
      .note =
          "All runs of an arm. Worker hours count the time for which gangs were reserved; runs whose events "
          "retention removed are left out. Energy was not measured.",
      .header = {"arm", "runs", "attempts", "tokens", "worker hours"},
      .is_number = {false, true, true, true, true}};
  for (const Arm& arm : report.arms) {
    int runs = 0, attempts = 0, runs_with_hours = 0;
    double tokens = 0, hours = 0;
    for (const Group& group : arm.groups) {
      for (const RunSummary& run : group.runs) {
        ++runs;
        attempts += run.attempts;
        tokens += static_cast<double>(run.tokens);
        hours += run.worker_hours.value_or(0);
        runs_with_hours += run.worker_hours.has_value();
      }
    }
    std::string hours_text = runs_with_hours > 0 ? fmt::format("{:.2f}", hours) : kNone;
    if (runs_with_hours > 0 && runs_with_hours < runs)
      hours_text += fmt::format(" ({} of {} runs)", runs_with_hours, runs);
    table.rows.push_back(
        {arm.label, std::to_string(runs), std::to_string(attempts), cli::CountText(tokens), hours_text});
  }
  return table;
}

TextTable TroubleTable(const Report& report) {
  TextTable table{.title = "Failures and retries",
                  .header = {"run", "arm", "outcome", "attempts", "why"},
                  .is_number = {false, false, false, true, false}};
  for (const Arm& arm : report.arms) {
    for (const Group& group : arm.groups) {
      for (const RunSummary& run : group.runs) {
        if (run.outcome == "succeeded" && run.attempts <= 1) continue;
        table.rows.push_back({run.id, arm.label, run.outcome, std::to_string(run.attempts), run.reason});
      }
    }
  }
  std::sort(table.rows.begin(), table.rows.end());
  return table;
}

}  // namespace normlab::report
