// normlab compare: one line per scheme (or whatever the axes are), best first.
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/comparison.h"
#include "cli/format.h"
#include "common/ids.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct CompareOptions {
  std::string experiment;
};

/// Runs with their last layer report, which lists leave out.
absl::StatusOr<std::vector<v1::Run>> FullRuns(Client& client, const std::string& experiment) {
  v1::RunSelector selector;
  selector.set_experiment_id(experiment);
  NORMLAB_ASSIGN_OR_RETURN(std::vector<v1::Run> runs, client.ListRuns(selector));
  for (v1::Run& run : runs) {
    NORMLAB_ASSIGN_OR_RETURN(run, client.GetRun(run.id()));
  }
  return runs;
}

void PrintJson(const std::string& experiment, const std::vector<ComparedGroup>& groups) {
  const auto or_null = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const ComparedGroup& group : groups) {
    nlohmann::ordered_json variances = nlohmann::ordered_json::array();
    for (const auto& variance : group.variances) {
      variances.push_back({{"layer", variance.layer}, {"output_variance", variance.value}});
    }
    const auto& loss = group.validation_loss;
    rows.push_back({{"axes", group.axes},
                    {"runs", group.runs},
                    {"succeeded", group.succeeded},
                    {"diverged", group.diverged},
                    {"failed", group.failed},
                    {"cancelled", group.cancelled},
                    {"unfinished", group.unfinished},
                    {"validation_loss", or_null(loss ? std::optional(loss->value) : std::nullopt)},
                    {"validation_loss_deviation", or_null(loss ? loss->deviation : std::nullopt)},
                    {"perplexity", or_null(group.perplexity)},
                    {"tokens_per_second", or_null(group.tokens_per_second)},
                    {"layers", variances}});
  }
  fmt::print("{}\n", nlohmann::ordered_json({{"experiment", experiment}, {"groups", rows}}).dump(2));
}

std::vector<Column> ColumnsFor(const std::vector<ComparedGroup>& groups) {
  std::vector<Column> columns;
  for (const auto& [axis, value] : groups.front().axes) columns.push_back({axis});
  if (columns.empty()) columns.push_back({"experiment"});
  columns.insert(columns.end(), {{"VAL LOSS", Align::kRight}, {"PERPLEXITY", Align::kRight}});
  // Layer numbers stand in the title if all groups have the same depth.
  const auto& first = groups.front().variances;
  bool is_one_depth = first.size() == 3;
  for (const ComparedGroup& group : groups) {
    is_one_depth = is_one_depth && (group.variances.empty() || (group.variances.size() == 3 &&
                                                                group.variances.back().layer == first.back().layer));
  }
  for (int i = 0; i < 3; ++i) {
    static constexpr const char* kWords[] = {"FIRST", "MIDDLE", "LAST"};
    const std::string which = is_one_depth ? fmt::format("L{}", first[i].layer) : kWords[i];
    columns.push_back({fmt::format("VAR {}", which), Align::kRight});
  }
  columns.insert(columns.end(), {{"TOKENS/S", Align::kRight}, {"RUNS"}});
  return columns;
}

std::string LossText(const ComparedGroup& group) {
  if (!group.validation_loss) {
    return group.diverged > 0 ? "diverged" : group.failed > 0 ? "failed" : group.cancelled > 0 ? "cancelled" : "-";
  }
  const report::Mean& loss = *group.validation_loss;
  return loss.deviation ? fmt::format("{:.4f} ± {:.4f}", loss.value, *loss.deviation)
                        : fmt::format("{:.4f}", loss.value);
}

std::vector<Cell> RowOf(const ComparedGroup& group, const std::string& experiment) {
  std::vector<Cell> row;
  for (const auto& [axis, value] : group.axes) row.emplace_back(value);
  if (row.empty()) row.emplace_back(experiment);
  const bool has_loss = group.validation_loss.has_value();
  const Style bad = group.diverged + group.failed + group.cancelled > 0 ? Style::kRed : Style::kPlain;
  row.emplace_back(LossText(group), has_loss ? Style::kBold : bad);
  row.emplace_back(has_loss ? fmt::format("{:.2f}", *group.perplexity) : "-");
  // A model of one or two layers reports fewer than three.
  const auto& variances = group.variances;
  for (size_t i = 0; i < 3; ++i) {
    const bool is_known = !variances.empty();
    row.emplace_back(is_known ? ValueOf(variances[i * (variances.size() - 1) / 2].value) : "-");
  }
  row.emplace_back(group.tokens_per_second ? CountText(*group.tokens_per_second) : "-");
  row.emplace_back(OutcomeText(group), bad);
  return row;
}

absl::StatusOr<ExitCode> RunCompare(const CompareOptions& options, const Session& session) {
  const std::string& id = options.experiment;
  if (!ExperimentId::Parse(id)) {
    return absl::InvalidArgumentError(fmt::format("'{}' is no experiment; they look like exp-0001", id));
  }
  const auto client = session.Connect();
  NORMLAB_RETURN_IF_ERROR(client->GetExperiment(id).status());
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<v1::Run> runs, FullRuns(*client, id));
  const std::vector<ComparedGroup> groups = CompareRuns(runs);
  if (session.is_json()) {
    PrintJson(id, groups);
    return ExitCode::kOk;
  }
  if (groups.empty()) return absl::NotFoundError(fmt::format("{} has no runs", id));
  Table table(ColumnsFor(groups));
  for (const ComparedGroup& group : groups) table.AddRow(RowOf(group, id));
  fmt::print("{}", table.Render(WantsColor(STDOUT_FILENO)));
  int unfinished = 0;
  for (const ComparedGroup& group : groups) unfinished += group.unfinished;
  if (unfinished > 0) {
    session.Hint(
        fmt::format("{} run(s) have not finished and do not count yet; follow: normlab watch {}", unfinished, id));
  } else {
    session.Hint("VAL LOSS is nats per token on held-out text (± over seeds); VAR is the output variance of a layer");
  }
  return ExitCode::kOk;
}

}  // namespace

void AddCompare(CLI::App& app, Session& session) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App* command =
      AddCommand(app, session, "compare", "Compare the schemes of an experiment: loss, perplexity, variance, speed",
                 "  normlab compare exp-0001\n"
                 "  normlab compare exp-0001 -o json",
                 options, [&session](const CompareOptions& chosen) { return RunCompare(chosen, session); });
  command->add_option("experiment", options->experiment, "Experiment (exp-0001)")->required()->type_name("EXP");
}

}  // namespace normlab::cli
