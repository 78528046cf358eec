// normlab report: an experiment as a page that can be published.
#include <unistd.h>

#include <filesystem>

#include "cli/commands.h"
#include "cli/progress_line.h"
#include "cli/report/render.h"
#include "common/build_id.h"
#include "common/durable_file.h"
#include "common/ids.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct ReportOptions {
  std::string experiment;
  std::string baseline;
  std::string output = "md";  // A file, or a form's name for standard output.
};

struct Form {
  const char* name;
  std::string (*render)(const report::Report&);
};
constexpr Form kForms[] = {
    {"html", report::ToHtml}, {"md", report::ToMarkdown}, {"csv", report::ToCsv}, {"json", report::ToJson}};

/// What to write and where; an empty path is standard output.
struct Target {
  const Form* form;
  std::filesystem::path path;
};

absl::StatusOr<Target> ChooseTarget(const std::string& output) {
  const std::filesystem::path path(output);
  const std::string extension = path.extension().string();
  for (const Form& form : kForms) {
    if (output == form.name) return Target{&form, {}};
    if (extension == fmt::format(".{}", form.name)) return Target{&form, std::filesystem::absolute(path)};
  }
  return absl::InvalidArgumentError(
      fmt::format("'{}' says no form of a report: name a file that ends in .html, .md, .csv or .json, or give one of "
                  "these words for "
                  "standard output",
                  output));
}

absl::StatusOr<report::Input> Fetch(Client& client, const std::string& id, bool is_silent) {
  report::Input input;
  NORMLAB_ASSIGN_OR_RETURN(input.experiment, client.GetExperiment(id));
  NORMLAB_ASSIGN_OR_RETURN(const v1::Info info, client.GetInfo());
  // One of before builds were told.
  input.coordinator_build = info.build().empty() ? info.version() : info.build();
  input.report_build = std::string(BuildId());
  v1::RunSelector selector;
  selector.set_experiment_id(id);
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<v1::Run> runs, client.ListRuns(selector));
  ProgressLine progress("Reading histories", is_silent);
  for (const v1::Run& run : runs) {
    report::RunRecord record{.run = run};
    NORMLAB_ASSIGN_OR_RETURN(record.history, client.GetMetrics(run.id()));
    NORMLAB_ASSIGN_OR_RETURN(const v1::ListEventsResponse events, client.ListEvents(run.id()));
    record.events.assign(events.events().begin(), events.events().end());
    NORMLAB_ASSIGN_OR_RETURN(const v1::HistorySummary summary, client.GetHistorySummary(run.id()));
    record.has_events_expired = summary.has_events_expired_at();
    input.runs.push_back(std::move(record));
    progress.Update(static_cast<double>(input.runs.size()) / static_cast<double>(runs.size()), run.id());
  }
  progress.Finish();
  return input;
}

absl::Status Write(const std::string& path, const std::string& text) {
  try {
    WriteFileDurably(path, text);
  } catch (const FileError& error) {
    return absl::InternalError(error.what());
  }
  return absl::OkStatus();
}

absl::StatusOr<ExitCode> RunReport(const ReportOptions& options, const Session& session) {
  const std::string& id = options.experiment;
  if (!ExperimentId::Parse(id)) {
    return absl::InvalidArgumentError(fmt::format("'{}' is no experiment; they look like exp-0001", id));
  }
  NORMLAB_ASSIGN_OR_RETURN(const Target target, ChooseTarget(options.output));
  const auto client = session.Connect();
  NORMLAB_ASSIGN_OR_RETURN(const report::Input input, Fetch(*client, id, /*is_silent=*/target.path.empty()));
  NORMLAB_ASSIGN_OR_RETURN(const report::Report report, report::MakeReport(input, options.baseline));
  const std::string text = target.form->render(report);
  if (target.path.empty()) {
    fmt::print("{}", text);
    return ExitCode::kOk;
  }
  NORMLAB_RETURN_IF_ERROR(Write(target.path, text));
  fmt::print("{}\n", target.path.string());
  if (!report.is_complete) session.Hint("some runs have not ended; call again when they have");
  return ExitCode::kOk;
}

}  // namespace

void AddReport(CLI::App& app, Session& session) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* command =
      AddCommand(app, session, "report", "Write a report of an experiment: losses, statistics, layers, cost",
                 "  normlab report exp-0001 -o report.html\n"
                 "  normlab report exp-0001 --baseline lns -o report.md\n"
                 "  normlab report exp-0001 -o json",
                 options, [&session](const ReportOptions& chosen) { return RunReport(chosen, session); });
  command->add_option("experiment", options->experiment, "Experiment (exp-0001)")->required()->type_name("EXP");
  command
      ->add_option("-o,--output", options->output,
                   "A file .html, .md, .csv or .json, or one of these words: to standard output")
      ->type_name("FILE")
      ->default_str("md");
  command
      ->add_option("--baseline", options->baseline,
                   "Norm that each arm is compared with where all else is the same, or one arm; else pre_ln")
      ->type_name("ARM");
}

}  // namespace normlab::cli
