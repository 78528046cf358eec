// normlab show: everything about one run or experiment.
#include <unistd.h>

#include "absl/time/clock.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "common/ids.h"
#include "common/spec.h"
#include "common/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::cli {
namespace {

struct ShowOptions {
  std::string id;
};

void PrintLine(const std::string& name, const std::string& text) {
  if (!text.empty()) fmt::print("{:<12} {}\n", name, Printable(text));
}

std::string ProgressText(const v1::Run& run) {
  const v1::RunProgress& progress = run.progress();
  if (progress.step() == 0) return "";
  std::string text =
      fmt::format("step {} of {}, loss {:.4f}", progress.step(), run.spec().train().steps(), progress.loss());
  if (progress.tokens_per_second() > 0) {
    text += fmt::format(", {} tokens/s", CountText(progress.tokens_per_second()));
  }
  if (!IsTerminalState(run.state())) text += fmt::format(", {} left", DurationText(TimeLeft(run)));
  return text;
}

std::string EvalText(const v1::RunProgress& progress) {
  if (!progress.has_eval()) return "";
  return fmt::format("loss {:.4f}, perplexity {:.2f} at step {} on {} tokens", progress.eval().loss(),
                     progress.eval().perplexity(), progress.eval().step(), CountText(progress.eval().tokens()));
}

std::string CheckpointText(const v1::RunProgress& progress) {
  if (!progress.has_checkpoint()) return "";
  return fmt::format("{} (step {}, {})", progress.checkpoint().name(), progress.checkpoint().step(),
                     BytesText(progress.checkpoint().bytes()));
}

std::string LayersText(const v1::RunProgress& progress) {
  std::vector<std::string> values;
  for (const v1::LayerStats& layer : progress.layers().layers()) values.push_back(ValueOf(layer.output_variance()));
  return fmt::format("{}", fmt::join(values, " "));
}

std::string AnalysisText(const v1::RunProgress& progress) {
  if (progress.analysis_steps().empty()) return "";
  return fmt::format("of step {}", fmt::join(progress.analysis_steps(), ", "));
}

std::string EnvironmentText(const v1::Run& run) {
  if (!run.has_environment()) return "";
  const v1::AttemptEnvironment& environment = run.environment();
  return fmt::format("normlab {}, LibTorch {}, {} of {}; coordinator {}", environment.worker_build(),
                     environment.started().torch_version(), environment.started().device(), environment.worker_host(),
                     environment.coordinator_build());
}

void PrintEvents(const v1::ListEventsResponse& events) {
  Table table({{"TIME"}, {"TRY", Align::kRight}, {"STATE"}, {"BY"}, {"REASON"}});
  for (const v1::Event& event : events.events()) {
    const bool is_move = event.state() != v1::RUN_STATE_UNSPECIFIED;
    table.AddRow({TimeText(event.time()), fmt::format("{}", event.attempt()), is_move ? StateName(event.state()) : "",
                  event.actor(), event.reason()});
  }
  fmt::print("\nEvents:\n{}", table.Render(WantsColor(STDOUT_FILENO)));
}

void PrintRun(const v1::Run& run, const v1::HistorySummary& history) {
  const absl::Time now = absl::Now();
  PrintLine("run", run.id());
  PrintLine("axes", PairsText(run.axes()));
  fmt::print("{:<12} {}\n", "state", Paint(StateCell(run).text, StateCell(run).style, WantsColor(STDOUT_FILENO)));
  PrintLine(run.state() == v1::QUEUED ? "waits" : "reason", run.reason());
  if (run.has_not_before() && FromProto(run.not_before()) > now) {
    PrintLine("not before",
              fmt::format("{} (in {})", TimeText(run.not_before()), DurationText(FromProto(run.not_before()) - now)));
  }
  PrintLine("attempt",
            fmt::format("{} ({} of {} retries spent)", run.attempt(), run.failures(), run.spec().retries_max()));
  PrintLine("workers", fmt::format("{}", fmt::join(run.workers(), " ")));
  PrintLine("progress", ProgressText(run));
  PrintLine("evaluation", EvalText(run.progress()));
  PrintLine("checkpoint", CheckpointText(run.progress()));
  PrintLine("history", HistoryText(history));
  PrintLine("variance", LayersText(run.progress()));
  PrintLine("analysis", AnalysisText(run.progress()));
  PrintLine("environment", EnvironmentText(run));
  PrintLine("owner", run.owner());
  PrintLine("priority", fmt::format("{}", run.priority()));
  PrintLine("labels", PairsText(run.labels()));
  PrintLine("created", fmt::format("{} ({})", TimeText(run.created_at()), AgoText(run.created_at(), now)));
  if (run.has_started_at()) PrintLine("started", TimeText(run.started_at()));
  if (run.has_ended_at()) PrintLine("ended", TimeText(run.ended_at()));
  fmt::print("\nSpec:\n{}", ToYaml(run.spec()));
}

absl::StatusOr<ExitCode> ShowRun(const std::string& id, const Session& session) {
  const auto client = session.Connect();
  NORMLAB_ASSIGN_OR_RETURN(const v1::Run run, client->GetRun(id));
  NORMLAB_ASSIGN_OR_RETURN(const v1::ListEventsResponse events, client->ListEvents(id));
  NORMLAB_ASSIGN_OR_RETURN(const v1::HistorySummary history, client->GetHistorySummary(id));
  if (session.is_json()) {
    // {"run": {...}, "history": {...}, "events": [...]}: the others go in front of the list's own key.
    const std::string list =
        ListToJson("events", std::vector<v1::Event>(events.events().begin(), events.events().end()));
    fmt::print("{{\"run\": {}, \"history\": {}, {}", ToJson(run), ToJson(history), list.substr(1));
    return ExitCode::kOk;
  }
  PrintRun(run, history);
  PrintEvents(events);
  switch (run.state()) {
    case v1::QUEUED:
      session.Hint("who could run it: normlab workers");
      break;
    case v1::FAILED:
    case v1::CANCELLED:
      session.Hint(fmt::format("what it said: normlab logs {0}   try again: normlab requeue {0}", id));
      break;
    case v1::SUCCEEDED:
      session.Hint(fmt::format("results: normlab compare {}", run.experiment_id()));
      if (!run.progress().analysis_steps().empty()) {
        session.Hint(fmt::format("what its layers do: normlab report {} -o report.html", run.experiment_id()));
      } else if (!HasDiverged(run)) {
        session.Hint(fmt::format("what its layers do: normlab analyze {0} --out analysis/{0}", id));
      }
      break;
    default:
      session.Hint(fmt::format("follow it: normlab watch {0}   what it says: normlab logs -f {0}", id));
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> ShowExperiment(const std::string& id, const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(const v1::Experiment experiment, session.Connect()->GetExperiment(id));
  if (session.is_json()) {
    fmt::print("{}", ToJson(experiment));
    return ExitCode::kOk;
  }
  PrintLine("experiment", experiment.id());
  PrintLine("owner", experiment.owner());
  PrintLine("created",
            fmt::format("{} ({})", TimeText(experiment.created_at()), AgoText(experiment.created_at(), absl::Now())));
  std::vector<std::string> states;
  for (int i = 0; i < v1::RunState_ARRAYSIZE; ++i) {
    const auto found = experiment.runs_by_state().find(v1::RunState_Name(i));
    if (found != experiment.runs_by_state().end() && found->second > 0) {
      states.push_back(fmt::format("{} {}", found->second, found->first));
    }
  }
  PrintLine("runs", fmt::format("{}: {}", experiment.num_runs(), fmt::join(states, ", ")));
  fmt::print("\nSpec:\n{}", ToYaml(experiment.spec()));
  session.Hint(fmt::format("its runs: normlab list {0}   results: normlab compare {0}", id));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RunShow(const ShowOptions& options, const Session& session) {
  if (RunId::Parse(options.id)) return ShowRun(options.id, session);
  if (ExperimentId::Parse(options.id)) return ShowExperiment(options.id, session);
  return absl::InvalidArgumentError(
      fmt::format("'{}' is neither a run (exp-0001.03) nor an experiment (exp-0001)", options.id));
}

}  // namespace

void AddShow(CLI::App& app, Session& session) {
  auto options = std::make_shared<ShowOptions>();
  CLI::App* command = AddCommand(app, session, "show", "Show one run or experiment: spec, state, why it waits, events",
                                 "  normlab show exp-0001.03\n"
                                 "  normlab show exp-0001 -o json",
                                 options, [&session](const ShowOptions& chosen) { return RunShow(chosen, session); });
  command->add_option("id", options->id, "Run (exp-0001.03) or experiment (exp-0001)")
      ->required()
      ->type_name("RUN|EXP");
}

}  // namespace normlab::cli
