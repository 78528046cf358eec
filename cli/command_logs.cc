// normlab logs: what a run's trainers said.
#include <unistd.h>

#include "absl/time/time.h"
#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "common/ids.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct LogsOptions {
  std::string run;
  bool is_following = false;
  int tail = 0;
};

/// Prints lines; after a reconnect, which sends old lines again, only those that are new.
class LogPrinter {
 public:
  explicit LogPrinter(bool is_json) : is_json_(is_json), is_colored_(WantsColor(STDOUT_FILENO)) {}

  void Print(const v1::LogEntry& entry) {
    const absl::Time time = FromProto(entry.time());
    // Several lines may carry one time: count those, so that none is lost and none comes twice.
    if (time < last_time_) return;
    if (time > last_time_) {
      last_time_ = time;
      printed_at_last_ = 0;
      seen_at_last_ = 0;
    }
    if (++seen_at_last_ <= printed_at_last_) return;
    ++printed_at_last_;
    is_json_ ? fmt::print("{}\n", ToJson(entry, /*is_indented=*/false)) : PrintText(entry, time);
    std::fflush(stdout);
  }

  void Reconnected() { seen_at_last_ = 0; }
  bool has_printed() const { return printed_at_last_ > 0; }

 private:
  void PrintText(const v1::LogEntry& entry, absl::Time time) const {
    const Style style = entry.line().severity() == v1::LogLine::ERROR     ? Style::kRed
                        : entry.line().severity() == v1::LogLine::WARNING ? Style::kYellow
                                                                          : Style::kPlain;
    const std::string when = absl::FormatTime("%H:%M:%E3S", time, absl::LocalTimeZone());
    fmt::print("{} {} {}\n", Paint(when, Style::kDim, is_colored_),
               Paint(fmt::format("[{}/{}]", entry.attempt(), entry.rank()), Style::kDim, is_colored_),
               Paint(Printable(entry.line().text()), style, is_colored_));
  }

  const bool is_json_;
  const bool is_colored_;
  absl::Time last_time_ = absl::InfinitePast();
  int printed_at_last_ = 0;
  int seen_at_last_ = 0;
};

absl::StatusOr<ExitCode> RunLogs(const LogsOptions& options, const Session& session) {
  if (!RunId::Parse(options.run)) {
    return absl::InvalidArgumentError(fmt::format("'{}' is no run; they look like exp-0001.03", options.run));
  }
  Interrupt interrupt;
  const auto client = session.Connect();
  v1::StreamLogsRequest request;
  request.set_run_id(options.run);
  request.set_follow(options.is_following);
  request.set_tail(options.tail);
  LogPrinter printer(session.is_json());
  const absl::Status status = Follow<v1::LogEntry>(
      *client, interrupt, [&](grpc::ClientContext* context) { return client->StreamLogs(context, request); },
      [&](const v1::LogEntry& entry) {
        printer.Print(entry);
        request.set_tail(0);  // After a reconnect everything is needed to find where we were.
      },
      [&](const std::string& reason) {
        printer.Reconnected();
        session.Note(fmt::format("no answer from {} ({}); trying again", client->server(), reason));
      });
  if (!status.ok()) return status;
  if (!printer.has_printed()) {
    session.Hint(fmt::format("{} has no log lines; its history: normlab show {}", options.run, options.run));
  } else if (!options.is_following) {
    session.Hint(fmt::format("numbers are attempt/rank; go on with: normlab logs -f {}", options.run));
  }
  return ExitCode::kOk;
}

}  // namespace

void AddLogs(CLI::App& app, Session& session) {
  auto options = std::make_shared<LogsOptions>();
  CLI::App* command = AddCommand(app, session, "logs", "Print a run's log",
                                 "  normlab logs exp-0001.03 --tail 50\n"
                                 "  normlab logs -f exp-0001.03     # until the run ends",
                                 options, [&session](const LogsOptions& chosen) { return RunLogs(chosen, session); });
  command->add_option("run", options->run, "Run (exp-0001.03)")->required()->type_name("RUN");
  command->add_flag("-f,--follow", options->is_following, "Go on with new lines until the run has ended");
  command->add_option("--tail", options->tail, "Start with the last N lines; without it with the first one")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
}

}  // namespace normlab::cli
