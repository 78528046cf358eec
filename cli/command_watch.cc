// normlab watch: runs live, until all have ended.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <mutex>

#include "absl/time/clock.h"
#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "cli/progress_view.h"
#include "cli/trend_reader.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct WatchOptions {
  std::string id;
};

/// Shows the runs: redrawn in place on a terminal, as lines elsewhere, as JSON lines for programs. Any thread.
class Screen {
 public:
  Screen(std::string id, const Session& session)
      : id_(std::move(id)), is_json_(session.is_json()), is_live_(!is_json_ && IsTerminal(STDOUT_FILENO)) {
    if (!is_live_) return;
    fmt::print("\x1b[?25l");  // The cursor would flicker over the bars.
    reader_ = std::make_unique<TrendReader>(std::make_unique<Client>(
                                                session.server, [](const std::string&) {}, session.security),
                                            [this](RunId run, const Trend& trend) { SetTrend(run, trend); });
  }
  ~Screen() {
    reader_.reset();
    const std::scoped_lock lock(mutex_);
    if (is_live_ && is_stale_) Draw();
    if (is_live_) fmt::print("\x1b[?25h");
    std::fflush(stdout);
  }

  /// Draws what is still unread of runs that have ended; until all is read, or the user interrupts.
  void Finish(Interrupt& interrupt) {
    if (!reader_) return;
    interrupt.SetCallback([this] { reader_->Cancel(); });
    reader_->Finish();
    interrupt.SetCallback(nullptr);
  }

  void Update(const v1::WatchRunsResponse& response) {
    const absl::Time now = absl::Now();
    const std::scoped_lock lock(mutex_);
    note_.clear();
    for (const v1::Run& run : response.runs()) {
      v1::Run& known = runs_[RunId::Parse(run.id()).value_or(RunId{})];
      // After a reconnect, what was sent behind the last revision to resume from comes again.
      if (run.revision() <= known.revision()) continue;
      known = run;
      if (is_json_) fmt::print("{}\n", ToJson(run, /*is_indented=*/false));
      if (!is_json_ && !is_live_ && filter_.ShouldPrint(run, now)) {
        fmt::print("{}  {}\n", absl::FormatTime("%H:%M:%S", now, absl::LocalTimeZone()), DescribeRun(run));
      }
    }
    if (is_live_) FollowShown();
    DrawSoon(now);
  }

  void Lost(const std::string& note) {
    const std::scoped_lock lock(mutex_);
    note_ = note;
    is_live_ ? Draw() : is_json_ ? void() : fmt::print(stderr, "{}\n", note);
    std::fflush(stdout);
  }

  RunsById runs() const {
    const std::scoped_lock lock(mutex_);
    return runs_;
  }

 private:
  void SetTrend(RunId run, const Trend& trend) {
    const std::scoped_lock lock(mutex_);
    trends_[run] = trend;
    DrawSoon(absl::Now());
  }

  /// Only what has a line is worth reading.
  void FollowShown() {
    std::vector<std::pair<RunId, int64_t>> followed;
    for (const RunId id : ShownRuns(runs_, SizeOfTerminal(STDOUT_FILENO).rows)) {
      const int64_t step = runs_.at(id).progress().step();
      if (step > 0) followed.emplace_back(id, step);
    }
    reader_->Follow(std::move(followed));
  }

  void DrawSoon(absl::Time now) {
    is_stale_ = true;
    // Several updates arrive per redraw; the eye needs ten frames a second.
    if (is_live_ && now - drawn_at_ >= absl::Milliseconds(100)) Draw();
    std::fflush(stdout);
  }

  void Draw() {
    const TerminalSize size = SizeOfTerminal(STDOUT_FILENO);
    std::string title = fmt::format("{}  {}", id_, CountStates(runs_));
    if (!note_.empty()) title += "  (" + note_ + ")";
    const auto lines = DrawRuns(title, runs_, trends_,
                                {.columns = size.columns - 1,
                                 .rows = size.rows - 1,
                                 .is_colored = WantsColor(STDOUT_FILENO),
                                 .is_unicode = WantsUnicode()});
    std::string frame;
    if (drawn_ > 0) frame += fmt::format("\x1b[{}A", drawn_);
    for (const std::string& line : lines) frame += line + "\x1b[K\n";
    frame += "\x1b[J";  // Fewer lines than before, after the window was made smaller.
    fmt::print("{}", frame);
    drawn_ = static_cast<int>(lines.size());
    drawn_at_ = absl::Now();
    is_stale_ = false;
  }

  const std::string id_;
  const bool is_json_;
  const bool is_live_;
  mutable std::mutex mutex_;  // Guards all below but the reader.
  RunsById runs_;
  TrendsById trends_;
  std::string note_;
  LineFilter filter_{absl::Seconds(5)};
  int drawn_ = 0;  // Lines of the last frame.
  absl::Time drawn_at_ = absl::InfinitePast();
  bool is_stale_ = false;
  std::unique_ptr<TrendReader> reader_;  // Null unless live.
};

absl::StatusOr<ExitCode> RunWatch(const WatchOptions& options, const Session& session) {
  v1::WatchRunsRequest request;
  NORMLAB_ASSIGN_OR_RETURN(*request.mutable_selector(), ParseSelector({options.id}, {}));
  request.set_until_terminal(true);
  Interrupt interrupt;
  const auto client = session.Connect();
  RunsById runs;
  absl::Status status;
  {
    Screen screen(options.id, session);
    const auto take = [&](const v1::WatchRunsResponse& response) {
      // A reconnect goes on from here: nothing is shown twice, and nothing is missed.
      if (response.revision() > 0) request.set_since_revision(response.revision());
      if (!response.has_resync()) screen.Update(response);
    };
    do {
      status = Follow<v1::WatchRunsResponse>(
          *client, interrupt, [&](grpc::ClientContext* context) { return client->WatchRuns(context, request); }, take,
          [&](const std::string&) { screen.Lost(fmt::format("no answer from {}; trying again", client->server())); });
      request.clear_since_revision();  // If it was too old: all runs as they are now.
    } while (absl::IsOutOfRange(status));
    if (status.ok()) screen.Finish(interrupt);
    runs = screen.runs();
  }
  if (absl::IsCancelled(status)) {
    session.Hint(fmt::format("no longer watching; back with: normlab watch {0}   end the runs with: normlab cancel {0}",
                             options.id));
  }
  NORMLAB_RETURN_IF_ERROR(status);
  if (runs.empty()) return absl::NotFoundError(fmt::format("{} does not exist", options.id));
  int succeeded = 0;
  for (const auto& [id, run] : runs) succeeded += run.state() == v1::SUCCEEDED;
  const std::string experiment = runs.begin()->first.experiment.ToString();
  if (succeeded == static_cast<int>(runs.size())) {
    session.Hint(fmt::format("all {} succeeded; results: normlab compare {}", succeeded, experiment));
    return ExitCode::kOk;
  }
  for (const auto& [id, run] : runs) {
    if (run.state() == v1::SUCCEEDED) continue;
    session.Note(fmt::format("{} {}: {}", run.id(), StateName(run.state()), Printable(run.reason())));
  }
  session.Hint(fmt::format("{} of {} succeeded; why not: normlab show RUN, normlab logs RUN", succeeded, runs.size()));
  return ExitCode::kPrecondition;
}

}  // namespace

void AddWatch(CLI::App& app, Session& session) {
  auto options = std::make_shared<WatchOptions>();
  CLI::App* command =
      AddCommand(app, session, "watch", "Follow runs live until all have ended (exit code 4 if one did not succeed)",
                 "  normlab watch exp-0001\n"
                 "  normlab watch exp-0001.03\n"
                 "  normlab watch exp-0001 -o json      # one run per line, as it changes",
                 options, [&session](const WatchOptions& chosen) { return RunWatch(chosen, session); });
  command->add_option("id", options->id, "Experiment (exp-0001) or run (exp-0001.03)")
      ->required()
      ->type_name("EXP|RUN");
}

}  // namespace normlab::cli
