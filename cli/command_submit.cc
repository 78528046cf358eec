// normlab submit: a YAML file becomes an experiment.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>
#include <system_error>

#include "cli/commands.h"
#include "cli/format.h"
#include "common/spec.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct SubmitOptions {
  std::string file;
  bool is_dry_run = false;
  std::string request_id;
  std::optional<int> priority;
};

absl::StatusOr<std::string> ReadSpecFile(const std::string& path) {
  std::ostringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
    return text.str();
  }
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {  // It would open.
    return absl::InvalidArgumentError(fmt::format("cannot read {}: it is a folder", path));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::InvalidArgumentError(fmt::format("cannot read {}: {}", path, std::generic_category().message(errno)));
  }
  text << file.rdbuf();  // Fails for an empty file; the parser says what is wrong with that.
  return text.str();
}

int PrintDryRun(const v1::ExperimentSpec& spec, const std::vector<ExpandedRun>& runs, bool is_json) {
  if (is_json) {
    std::vector<v1::RunSpec> specs;
    for (const ExpandedRun& run : runs) specs.push_back(run.spec);
    fmt::print("{}", ListToJson("runs", specs));
    return static_cast<int>(runs.size());
  }
  std::vector<Column> columns = {{"RUN", Align::kRight}};
  for (const auto& [axis, value] : runs.front().axes) columns.push_back({axis});
  columns.insert(columns.end(), {{"STEPS", Align::kRight}, {"TOKENS", Align::kRight}, {"WORKERS", Align::kRight}});
  Table table(std::move(columns));
  for (size_t i = 0; i < runs.size(); ++i) {
    std::vector<Cell> row = {fmt::format("{:02}", i + 1)};
    for (const auto& [axis, value] : runs[i].axes) row.emplace_back(value);
    const v1::RunSpec& run = runs[i].spec;
    const double tokens = static_cast<double>(run.train().steps()) * run.train().batch_size() * run.data().seq_len();
    row.emplace_back(fmt::format("{}", run.train().steps()));
    row.emplace_back(CountText(tokens));
    row.emplace_back(fmt::format("{}", run.resources().workers()));
    table.AddRow(std::move(row));
  }
  fmt::print("{}: {} run{}, priority {}\n{}", spec.name(), runs.size(), runs.size() == 1 ? "" : "s", spec.priority(),
             table.Render(WantsColor(STDOUT_FILENO)));
  return static_cast<int>(runs.size());
}

absl::StatusOr<ExitCode> RunSubmit(const SubmitOptions& options, const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(const std::string text, ReadSpecFile(options.file));
  NORMLAB_ASSIGN_OR_RETURN(v1::ExperimentSpec spec,
                           ParseExperimentYaml(text, options.file == "-" ? "stdin" : options.file));
  if (options.priority) {
    spec.set_priority(*options.priority);
    NORMLAB_RETURN_IF_ERROR(ViolationsToStatus(ValidateExperiment(spec)));
  }
  if (options.is_dry_run) {
    NORMLAB_ASSIGN_OR_RETURN(const auto runs, ExpandMatrix(spec));
    PrintDryRun(spec, runs, session.is_json());
    session.Hint(fmt::format("nothing was submitted; submit with: normlab submit {}", options.file));
    return ExitCode::kOk;
  }
  v1::CreateExperimentRequest request;
  *request.mutable_spec() = spec;
  request.set_request_id(options.request_id.empty() ? NewRequestId() : options.request_id);
  request.set_owner(UserName());
  const auto client = session.Connect();
  auto response = client->CreateExperiment(request);
  if (!response.ok()) {
    const absl::Status& status = response.status();
    const bool is_unsure = status.code() == absl::StatusCode::kDeadlineExceeded;
    if (!is_unsure) return status;
    return absl::DeadlineExceededError(
        fmt::format("{}\nit may have been stored; to be sure, repeat with --request-id {}",
                    std::string(status.message()), request.request_id()));
  }
  if (session.is_json()) {
    fmt::print("{}", ToJson(*response));
    return ExitCode::kOk;
  }
  const std::string& id = response->experiment().id();
  fmt::print("{} {} ({}, {} run{})\n", response->already_existed() ? "already submitted:" : "submitted", id,
             spec.name(), response->run_ids_size(), response->run_ids_size() == 1 ? "" : "s");
  session.Hint(fmt::format("follow it with: normlab watch {}", id));
  return ExitCode::kOk;
}

}  // namespace

void AddSubmit(CLI::App& app, Session& session) {
  auto options = std::make_shared<SubmitOptions>();
  CLI::App* command =
      AddCommand(app, session, "submit", "Submit an experiment from a YAML file",
                 "  normlab submit examples/ablation.yaml\n"
                 "  normlab submit ablation.yaml --dry-run      # show the runs, submit nothing\n"
                 "  normlab submit ablation.yaml --priority 10  # before runs of lower priority\n"
                 "  generate-spec | normlab submit -            # from standard input",
                 options, [&session](const SubmitOptions& chosen) { return RunSubmit(chosen, session); });
  command->add_option("file", options->file, "YAML file, or - for standard input")->required()->type_name("FILE");
  command->add_flag("--dry-run", options->is_dry_run, "Check the file and print the expanded runs; submit nothing");
  command
      ->add_option("--request-id", options->request_id,
                   "Submitting again with the same id returns the first answer instead of a second experiment")
      ->type_name("ID");
  command->add_option("--priority", options->priority, "Instead of the file's priority; higher runs first")
      ->type_name("N");
}

}  // namespace normlab::cli
