// normlab cancel, requeue, hold, release, priority: on runs, an experiment or a label.
#include <unistd.h>

#include <optional>

#include "cli/commands.h"
#include "cli/format.h"
#include "common/ids.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct ChangeOptions {
  std::vector<std::string> ids;
  std::vector<std::string> labels;
  std::string reason;
  bool is_from_scratch = false;
  std::string checkpoint;
  std::optional<int> priority;
};

absl::StatusOr<v1::RunSelector> ChosenRuns(const ChangeOptions& options) {
  NORMLAB_ASSIGN_OR_RETURN(const v1::RunSelector selector, ParseSelector(options.ids, options.labels));
  if (options.ids.empty() && options.labels.empty()) {
    return absl::InvalidArgumentError("say which: runs (exp-0001.03), an experiment (exp-0001), or --label key=value");
  }
  return selector;
}

void PrintChanges(const v1::ChangeRunsResponse& response, const Session& session) {
  if (session.is_json()) {
    fmt::print("{}", ToJson(response));
    return;
  }
  Table table({{"RUN"}, {"BEFORE"}, {"AFTER"}, {"NOTE"}});
  for (const auto& change : response.changes()) {
    table.AddRow({change.run_id(), StateName(change.before()), StateName(change.after()), change.note()});
  }
  fmt::print("{}", table.Render(WantsColor(STDOUT_FILENO)));
}

absl::StatusOr<ExitCode> RunCancel(const ChangeOptions& options, const Session& session) {
  v1::CancelRunsRequest request;
  NORMLAB_ASSIGN_OR_RETURN(*request.mutable_selector(), ChosenRuns(options));
  request.set_reason(options.reason);
  request.set_actor(UserName());
  NORMLAB_ASSIGN_OR_RETURN(const auto response, session.Connect()->CancelRuns(request));
  PrintChanges(response, session);
  int stopping = 0;
  for (const auto& change : response.changes()) stopping += change.after() == v1::STOPPING;
  if (stopping > 0) {
    session.Hint(fmt::format("{} run(s) save a checkpoint before they end; back with: normlab requeue {}", stopping,
                             response.changes(0).run_id()));
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RunRequeue(const ChangeOptions& options, const Session& session) {
  v1::RequeueRunsRequest request;
  NORMLAB_ASSIGN_OR_RETURN(*request.mutable_selector(), ChosenRuns(options));
  request.set_reason(options.reason);
  request.set_actor(UserName());
  request.set_from_scratch(options.is_from_scratch);
  request.set_checkpoint(options.checkpoint);
  if (options.priority) request.set_priority(*options.priority);
  request.set_request_id(NewRequestId());
  NORMLAB_ASSIGN_OR_RETURN(const auto response, session.Connect()->RequeueRuns(request));
  PrintChanges(response, session);
  if (response.changes_size() > 0) {
    const auto run = RunId::Parse(response.changes(0).run_id());
    session.Hint(fmt::format("follow with: normlab watch {}", run ? run->experiment.ToString() : ""));
  }
  return ExitCode::kOk;
}

/// Holds, releases or changes the priority.
absl::StatusOr<ExitCode> RunUpdate(const ChangeOptions& options, std::optional<bool> held, const Session& session) {
  v1::UpdateRunsRequest request;
  NORMLAB_ASSIGN_OR_RETURN(*request.mutable_selector(), ChosenRuns(options));
  request.set_reason(options.reason);
  request.set_actor(UserName());
  if (held) request.set_held(*held);
  if (options.priority) request.set_priority(*options.priority);
  NORMLAB_ASSIGN_OR_RETURN(const auto response, session.Connect()->UpdateRuns(request));
  PrintChanges(response, session);
  session.Hint("what waits, and why: normlab queue");
  return ExitCode::kOk;
}

void AddTargets(CLI::App* command, ChangeOptions* options) {
  command->add_option("id", options->ids, "Runs (exp-0001.03), or one experiment (exp-0001)")->type_name("RUN|EXP");
  command->add_option("-l,--label", options->labels, "All runs with this label (may be given several times)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--reason", options->reason, "Kept with the run's events")->type_name("TEXT");
}

}  // namespace

void AddCancel(CLI::App& app, Session& session) {
  auto options = std::make_shared<ChangeOptions>();
  CLI::App* command =
      AddCommand(app, session, "cancel", "Cancel runs; running ones save a checkpoint first",
                 "  normlab cancel exp-0001.03\n"
                 "  normlab cancel exp-0001 --reason \"wrong learning rate\"\n"
                 "  normlab cancel --label sweep=nightly",
                 options, [&session](const ChangeOptions& chosen) { return RunCancel(chosen, session); });
  AddTargets(command, options.get());
}

void AddRequeue(CLI::App& app, Session& session) {
  auto options = std::make_shared<ChangeOptions>();
  CLI::App* command =
      AddCommand(app, session, "requeue", "Queue ended runs again, from their last checkpoint",
                 "  normlab requeue exp-0001.03\n"
                 "  normlab requeue exp-0001 --from-scratch\n"
                 "  normlab requeue --label sweep=nightly --priority 10",
                 options, [&session](const ChangeOptions& chosen) { return RunRequeue(chosen, session); });
  AddTargets(command, options.get());
  CLI::Option* scratch =
      command->add_flag("--from-scratch", options->is_from_scratch, "Ignore the checkpoints of earlier attempts");
  command
      ->add_option("--checkpoint", options->checkpoint,
                   "Go on from this checkpoint, as `normlab show` names it, instead of the newest")
      ->type_name("NAME")
      ->excludes(scratch);
  command->add_option("--priority", options->priority, "New priority; without it the old one stays")->type_name("N");
}

void AddHold(CLI::App& app, Session& session) {
  for (const bool held : {true, false}) {
    const std::string name = held ? "hold" : "release";
    auto options = std::make_shared<ChangeOptions>();
    CLI::App* command = AddCommand(
        app, session, name,
        held ? "Keep queued runs from being placed until they are released" : "Let held runs be placed again",
        fmt::format("  normlab {0} exp-0001.03\n  normlab {0} --label sweep=nightly", name), options,
        [&session, held](const ChangeOptions& chosen) { return RunUpdate(chosen, held, session); });
    AddTargets(command, options.get());
  }
}

void AddPriority(CLI::App& app, Session& session) {
  auto options = std::make_shared<ChangeOptions>();
  CLI::App* command =
      AddCommand(app, session, "priority", "Change the priority of queued runs",
                 "  normlab priority exp-0001 --to 10\n"
                 "  normlab priority --label sweep=nightly --to=-5",
                 options, [&session](const ChangeOptions& chosen) { return RunUpdate(chosen, std::nullopt, session); });
  AddTargets(command, options.get());
  command->add_option("--to", options->priority, "New priority, -1000 to 1000; higher runs first")
      ->required()
      ->type_name("N");
}

}  // namespace normlab::cli
