// normlab queue: what waits, in order, and why.
#include <unistd.h>

#include "absl/time/clock.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct QueueOptions {
  int limit = 50;
};

absl::StatusOr<ExitCode> RunQueue(const QueueOptions& options, const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(const auto response, session.Connect()->ListQueue(options.limit));
  if (session.is_json()) {
    fmt::print("{}", ToJson(response));
    return ExitCode::kOk;
  }
  Table table({{"PLACE", Align::kRight}, {"RUN"}, {"OWNER"}, {"PRIORITY", Align::kRight}, {"WAITS"}, {"WHY"}});
  for (const v1::WaitingRun& waiting : response.runs()) {
    const v1::Run& run = waiting.run();
    table.AddRow({waiting.position() > 0 ? fmt::format("{}", waiting.position()) : "-", run.id(), run.owner(),
                  fmt::format("{}", run.priority()), run.held() ? "held" : AgoText(run.created_at(), absl::Now()),
                  waiting.reason()});
  }
  if (table.empty()) {
    session.Hint("nothing waits");
    return ExitCode::kOk;
  }
  fmt::print("{}", table.Render(WantsColor(STDOUT_FILENO)));
  if (response.num_waiting() > response.runs_size()) {
    session.Hint(fmt::format("{} of {} waiting runs; more with --limit", response.runs_size(), response.num_waiting()));
  }
  return ExitCode::kOk;
}

}  // namespace

void AddQueue(CLI::App& app, Session& session) {
  auto options = std::make_shared<QueueOptions>();
  CLI::App* command = AddCommand(app, session, "queue", "List what waits, in the order of the queue, and why",
                                 "  normlab queue\n"
                                 "  normlab queue --limit 1000 -o json",
                                 options, [&session](const QueueOptions& chosen) { return RunQueue(chosen, session); });
  command->add_option("--limit", options->limit, "Most runs to show")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str()
      ->type_name("N");
}

}  // namespace normlab::cli
