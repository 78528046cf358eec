#include <nlohmann/json.hpp>
#include <string_view>

#include "cli/report/render.h"
#include "cli/report/study.h"
#include "cli/report/tables.h"
#include "common/spec.h"
#include "fmt/format.h"

namespace normlab::report {
namespace {

using nlohmann::ordered_json;

std::string EscapeMarkdown(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (std::string_view("\\`*_[<|").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c == '\n' ? ' ' : c;
  }
  return escaped;
}

std::string TableOf(const TextTable& table) {
  if (table.rows.empty()) return "";
  std::string text = fmt::format("## {}\n\n", EscapeMarkdown(table.title));
  const auto line = [&](const std::vector<std::string>& cells) {
    text += "|";
    for (const std::string& cell : cells) text += fmt::format(" {} |", EscapeMarkdown(cell));
    text += "\n";
  };
  line(table.header);
  text += "|";
  for (const bool is_number : table.is_number) text += is_number ? "---:|" : "---|";
  text += "\n";
  for (const auto& row : table.rows) line(row);
  if (!table.note.empty()) text += fmt::format("\n{}\n", EscapeMarkdown(table.note));
  return text + "\n";
}

/// As RFC 4180 wants it.
std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

ordered_json OrNull(const std::optional<double>& value) { return value ? ordered_json(*value) : ordered_json(nullptr); }

ordered_json JsonOf(const Mean& mean) {
  return {{"n", mean.n},
          {"mean", mean.value},
          {"deviation", OrNull(mean.deviation)},
          {"interval_half_width", OrNull(mean.half_width)}};
}

ordered_json JsonOf(const Curve& curve) {
  ordered_json points = ordered_json::array();
  for (const Curve::Point& point : curve.points) {
    points.push_back({{"step", point.step}, {"mean", point.mean}, {"low", point.low}, {"high", point.high}});
  }
  return points;
}

ordered_json JsonOf(const LayerProfile& profile) { return {{"step", profile.step}, {"by_layer", profile.values}}; }

ordered_json JsonOf(const LayerRange& range) {
  if (range.mean.empty()) return nullptr;
  return {{"by_layer", range.mean}, {"low", range.low}, {"high", range.high}};
}

ordered_json JsonOf(const LayerStudy& study) {
  return {{"num_runs", study.num_runs},
          {"steps", study.steps},
          {"loss_increase_without_layer", JsonOf(study.removal)},
          {"jacobian_identity_distance_median", JsonOf(study.jacobian)},
          {"angular_distance", study.distances.empty() ? ordered_json(nullptr) : ordered_json(study.distances)}};
}

ordered_json JsonOf(const Environment& with) {
  return {{"normlab", with.worker_build},
          {"torch", with.torch_version},
          {"device", with.device},
          {"host", with.worker_host},
          {"coordinator", with.coordinator_build},
          {"attempts", with.attempts},
          {"runs", with.runs}};
}

ordered_json JsonOf(const Group& group) {
  ordered_json runs = ordered_json::array(), variance = ordered_json::array();
  for (const RunSummary& run : group.runs) {
    runs.push_back({{"id", run.id},
                    {"outcome", run.outcome},
                    {"validation_loss", OrNull(run.loss)},
                    {"attempts", run.attempts},
                    {"tokens", run.tokens},
                    {"worker_hours", OrNull(run.worker_hours)},
                    {"reason", run.reason}});
  }
  for (const LayerProfile& profile : group.variance) variance.push_back(JsonOf(profile));
  return {{"lr", group.lr.empty() ? ordered_json(nullptr) : ordered_json(group.lr)},
          {"validation_loss", group.loss ? JsonOf(*group.loss) : ordered_json(nullptr)},
          {"validation_loss_by_seed", group.loss_by_seed},
          {"perplexity", OrNull(group.perplexity)},
          {"num_runs", group.num_runs},
          {"num_diverged", group.num_diverged},
          {"train_loss_curve", JsonOf(group.train_loss)},
          {"validation_loss_curve", JsonOf(group.validation_loss)},
          {"output_variance", variance},
          {"gradient_norm", group.gradient_norm ? JsonOf(*group.gradient_norm) : ordered_json(nullptr)},
          {"analysis", group.study ? JsonOf(*group.study) : ordered_json(nullptr)},
          {"runs", runs}};
}

ordered_json JsonOf(const Comparison& comparison) {
  const PairedTest& test = comparison.test;
  return {
      {"arm", comparison.arm},
      {"lr", comparison.lr.empty() ? ordered_json(nullptr) : ordered_json(comparison.lr)},
      {"baseline", comparison.baseline},
      {"baseline_lr", comparison.baseline_lr.empty() ? ordered_json(nullptr) : ordered_json(comparison.baseline_lr)},
      {"difference", test.difference.n > 0 ? JsonOf(test.difference) : ordered_json(nullptr)},
      {"t", OrNull(test.t)},
      {"p", OrNull(test.p)},
      {"p_holm", OrNull(comparison.holm_p)},
      {"effect_size", OrNull(test.effect_size)},
      {"power", OrNull(test.power)},
      {"detectable_difference", OrNull(test.detectable_difference)},
      {"unpaired_seeds", comparison.unpaired}};
}

}  // namespace

std::string SpecYaml(const Report& report) { return ToYaml(report.experiment.spec()); }

std::string ToMarkdown(const Report& report) {
  const v1::ExperimentSpec& spec = report.experiment.spec();
  std::string text = fmt::format("# {}\n\n{}: {} runs, {} seed(s).\n\n", EscapeMarkdown(spec.name()),
                                 report.experiment.id(), report.experiment.num_runs(), report.num_seeds);
  if (!spec.description().empty()) text += EscapeMarkdown(spec.description()) + "\n\n";
  if (!report.is_complete) text += "Not all runs have ended: these numbers will change.\n\n";
  text += TableOf(ResultTable(report));
  for (const TextTable& table : ComparisonTables(report)) text += TableOf(table);
  for (const TextTable& table : {RateTable(report), LayerTable(report), RemovalTable(report), CostTable(report),
                                 TroubleTable(report), EnvironmentTable(report)}) {
    text += TableOf(table);
  }
  if (AreMixed(report.environments)) {
    text += "These runs were not all trained by the same build, LibTorch and device.\n\n";
  }
  return text + "## How to run it again\n\n`normlab submit` of this file:\n\n```yaml\n" + SpecYaml(report) + "```\n";
}

std::string ToCsv(const Report& report) {
  std::string text = "run,arm,lr,outcome,validation_loss,attempts,tokens,worker_hours\n";
  for (const Arm& arm : report.arms) {
    for (const Group& group : arm.groups) {
      for (const RunSummary& run : group.runs) {
        text += fmt::format("{},{},{},{},{},{},{},{}\n", run.id, CsvField(arm.label), group.lr, run.outcome,
                            run.loss ? fmt::format("{}", *run.loss) : "", run.attempts, run.tokens,
                            run.worker_hours ? fmt::format("{}", *run.worker_hours) : "");
      }
    }
  }
  return text;
}

std::string ToJson(const Report& report) {
  ordered_json arms = ordered_json::array(), families = ordered_json::array(), environments = ordered_json::array();
  for (const Environment& with : report.environments) environments.push_back(JsonOf(with));
  for (const Arm& arm : report.arms) {
    ordered_json groups = ordered_json::array();
    for (const Group& group : arm.groups) groups.push_back(JsonOf(group));
    arms.push_back({{"arm", arm.label}, {"best_group", arm.best}, {"groups", groups}});
  }
  for (const ComparisonFamily& family : report.families) {
    ordered_json comparisons = ordered_json::array();
    for (const Comparison& comparison : family.comparisons) comparisons.push_back(JsonOf(comparison));
    families.push_back({{"title", family.title}, {"comparisons", comparisons}});
  }
  return ordered_json({{"experiment", report.experiment.id()},
                       {"name", report.experiment.spec().name()},
                       {"baseline", report.baseline},
                       {"is_complete", report.is_complete},
                       {"confidence", kConfidence},
                       {"num_seeds", report.num_seeds},
                       {"learning_rates", report.learning_rates},
                       {"arms", arms},
                       {"comparisons", families},
                       {"environments", environments},
                       {"attempts_without_environment", report.attempts_unknown},
                       {"coordinator", report.coordinator_build},
                       {"normlab", report.report_build},
                       {"spec", SpecYaml(report)}})
             .dump(2) +
         "\n";
}

}  // namespace normlab::report
