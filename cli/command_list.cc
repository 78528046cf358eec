// normlab list: experiments, or runs.
#include <unistd.h>

#include "absl/strings/ascii.h"
#include "absl/time/clock.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "common/ids.h"
#include "common/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::cli {
namespace {

struct ListOptions {
  std::string experiment;
  std::vector<std::string> states;
  std::vector<std::string> labels;
  std::string owner;
  std::string since;
  std::string until;
};

std::string StatesText(const v1::Experiment& experiment) {
  std::vector<std::string> words;
  for (int i = 0; i < v1::RunState_ARRAYSIZE; ++i) {
    const std::string name = v1::RunState_Name(i);
    const auto found = experiment.runs_by_state().find(name);
    if (found == experiment.runs_by_state().end() || found->second == 0) continue;
    words.push_back(fmt::format("{} {}", found->second, absl::AsciiStrToLower(name)));
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

absl::StatusOr<ExitCode> ListAllExperiments(const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(const auto experiments, session.Connect()->ListExperiments());
  if (session.is_json()) {
    fmt::print("{}", ListToJson("experiments", experiments));
    return ExitCode::kOk;
  }
  Table table({{"EXPERIMENT"}, {"NAME"}, {"OWNER"}, {"CREATED"}, {"RUNS", Align::kRight}, {"STATES"}, {"LABELS"}});
  for (const v1::Experiment& experiment : experiments) {
    table.AddRow({experiment.id(), Truncate(experiment.spec().name(), 40), experiment.owner(),
                  AgoText(experiment.created_at(), absl::Now()), fmt::format("{}", experiment.num_runs()),
                  StatesText(experiment), PairsText(experiment.spec().labels())});
  }
  if (table.empty()) {
    session.Hint("no experiments yet; submit one with: normlab submit FILE");
    return ExitCode::kOk;
  }
  fmt::print("{}", table.Render(WantsColor(STDOUT_FILENO)));
  session.Hint(fmt::format("its runs: normlab list {}", experiments.front().id()));
  return ExitCode::kOk;
}

std::string NumberOrDash(bool is_known, const std::string& text) { return is_known ? text : "-"; }

absl::StatusOr<ExitCode> ListChosenRuns(const v1::RunSelector& selector, const Session& session) {
  const auto client = session.Connect();
  // An experiment that does not exist is an error, one without such runs is not.
  if (!selector.experiment_id().empty()) {
    NORMLAB_RETURN_IF_ERROR(client->GetExperiment(selector.experiment_id()).status());
  }
  NORMLAB_ASSIGN_OR_RETURN(const auto runs, client->ListRuns(selector));
  if (session.is_json()) {
    fmt::print("{}", ListToJson("runs", runs));
    return ExitCode::kOk;
  }
  Table table({{"RUN"},
               {"AXES"},
               {"STATE"},
               {"STEP", Align::kRight},
               {"LOSS", Align::kRight},
               {"VAL LOSS", Align::kRight},
               {"TOKENS/S", Align::kRight},
               {"TRY", Align::kRight},
               {"WORKERS"},
               {"REASON"}});
  for (const v1::Run& run : runs) {
    const v1::RunProgress& progress = run.progress();
    table.AddRow({run.id(), AxesText(run), StateCell(run),
                  fmt::format("{}/{}", progress.step(), run.spec().train().steps()),
                  NumberOrDash(progress.step() > 0, fmt::format("{:.4f}", progress.loss())),
                  NumberOrDash(progress.has_eval(), fmt::format("{:.4f}", progress.eval().loss())),
                  NumberOrDash(progress.tokens_per_second() > 0, CountText(progress.tokens_per_second())),
                  fmt::format("{}", run.attempt()), fmt::format("{}", fmt::join(run.workers(), " ")),
                  Truncate(run.reason(), 60)});
  }
  if (table.empty()) {
    session.Hint("no such runs");
    return ExitCode::kOk;
  }
  fmt::print("{}", table.Render(WantsColor(STDOUT_FILENO)));
  session.Hint(fmt::format("more of one: normlab show {}", runs.front().id()));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RunList(const ListOptions& options, const Session& session) {
  if (!options.experiment.empty() && !ExperimentId::Parse(options.experiment)) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is no experiment; they look like exp-0001", options.experiment));
  }
  std::vector<std::string> ids;
  if (!options.experiment.empty()) ids.push_back(options.experiment);
  NORMLAB_ASSIGN_OR_RETURN(v1::RunSelector selector, ParseSelector(ids, options.labels));
  for (const std::string& text : options.states) {
    NORMLAB_ASSIGN_OR_RETURN(const v1::RunState state, ParseState(text));
    selector.add_states(state);
  }
  selector.set_owner(options.owner);
  const absl::Time now = absl::Now();
  for (const auto& [flag, text, target] :
       {std::tuple("--since", options.since, &v1::RunSelector::mutable_created_after),
        std::tuple("--until", options.until, &v1::RunSelector::mutable_created_before)}) {
    if (text.empty()) continue;
    const auto moment = ParseMoment(text, now, absl::LocalTimeZone());
    if (!moment.ok())
      return absl::InvalidArgumentError(fmt::format("{} {}", flag, std::string(moment.status().message())));
    *(selector.*target)() = ToProto(*moment);
  }
  const bool is_of_runs = selector.ByteSizeLong() > 0;
  return is_of_runs ? ListChosenRuns(selector, session) : ListAllExperiments(session);
}

}  // namespace

void AddList(CLI::App& app, Session& session) {
  auto options = std::make_shared<ListOptions>();
  CLI::App* command = AddCommand(app, session, "list", "List experiments, or the runs of one",
                                 "  normlab list                            # experiments, newest first\n"
                                 "  normlab list exp-0001                   # its runs\n"
                                 "  normlab list --state running            # runs of all experiments\n"
                                 "  normlab list --label team=nlp -o json\n"
                                 "  normlab list --owner ada --since 2d     # what ada submitted in the last two days",
                                 options, [&session](const ListOptions& chosen) { return RunList(chosen, session); });
  command->add_option("experiment", options->experiment, "List the runs of this experiment")->type_name("EXP");
  command->add_option("--state", options->states, "Only runs in this state (may be given several times)")
      ->type_name("STATE")
      ->allow_extra_args(false);
  command->add_option("--owner", options->owner, "Only runs that this user submitted")->type_name("USER");
  command->add_option("--since", options->since, "Only runs submitted at this time or later")->type_name("TIME");
  command
      ->add_option("--until", options->until,
                   "Only runs submitted before this time: '2026-01-31', '2026-01-31 12:00' (local time), or how long "
                   "ago: '90m', '2d'")
      ->type_name("TIME");
  command->add_option("-l,--label", options->labels, "Only runs with this label (may be given several times)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

}  // namespace normlab::cli
