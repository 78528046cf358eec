// normlab workers, cordon, uncordon.
#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "common/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::cli {
namespace {

struct NoOptions {};

struct CordonOptions {
  std::string worker;
};

Cell WorkerStateCell(const v1::Worker& worker) {
  const std::string name = v1::Worker::State_Name(worker.state());
  const std::string text = worker.cordoned() ? name + ", cordoned" : name;
  switch (worker.state()) {
    case v1::Worker::BUSY:
      return {text, Style::kCyan};
    case v1::Worker::IDLE:
      return {text, worker.cordoned() ? Style::kYellow : Style::kGreen};
    case v1::Worker::UNREACHABLE:
      return {text, Style::kYellow};
    default:
      return {text, Style::kRed};
  }
}

std::string AttemptText(const v1::Worker& worker) {
  if (!worker.has_attempt()) return "-";
  return fmt::format("{} attempt {} rank {}", worker.attempt().run_id(), worker.attempt().attempt(),
                     worker.attempt().rank());
}

/// Why workers have no GPU: a line for each reason, with the workers that give it.
std::string WhyNoGpu(const v1::ListWorkersResponse& response) {
  std::map<std::string, std::vector<std::string>> workers_by_reason;
  for (const v1::Worker& worker : response.workers()) {
    const std::string& lacks = worker.info().device_lacks();
    if (!lacks.empty()) workers_by_reason[lacks].push_back(worker.id());
  }
  std::vector<std::string> lines;
  for (const auto& [reason, workers] : workers_by_reason) {
    lines.push_back(fmt::format("no GPU on {}: {}",
                                workers.size() <= 3 ? fmt::format("{}", fmt::join(workers, ", "))
                                                    : fmt::format("{} and {} others", workers[0], workers.size() - 1),
                                reason));
  }
  return fmt::format("{}", fmt::join(lines, "\n"));
}

absl::StatusOr<ExitCode> RunWorkers(const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(const auto response, session.Connect()->ListWorkers());
  if (session.is_json()) {
    fmt::print("{}", ToJson(response));
    return ExitCode::kOk;
  }
  Table table({{"WORKER"},
               {"STATE"},
               {"RUNS"},
               {"HOST"},
               {"DEVICE"},
               {"THREADS", Align::kRight},
               {"MEMORY", Align::kRight},
               {"LEASE", Align::kRight},
               {"METRICS"},
               {"LABELS"}});
  for (const v1::Worker& worker : response.workers()) {
    const absl::Duration lease = FromProto(worker.lease_expires_at()) - absl::Now();
    table.AddRow({worker.id(), WorkerStateCell(worker), AttemptText(worker), worker.info().host(),
                  worker.info().device(), fmt::format("{}", worker.info().threads()),
                  BytesText(worker.info().memory_bytes()),
                  worker.state() == v1::Worker::LOST ? "over" : DurationText(lease), worker.info().metrics_address(),
                  PairsText(worker.info().labels())});
  }
  if (table.empty()) {
    session.Hint("no workers; start some with: normlab up, or normlab-worker on another host");
    return ExitCode::kOk;
  }
  fmt::print("{}", table.Render(WantsColor(STDOUT_FILENO)));
  if (const std::string why = WhyNoGpu(response); !why.empty()) session.Hint(why);
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RunCordon(const std::string& worker, bool is_cordoned, const Session& session) {
  v1::SetWorkerCordonRequest request;
  request.set_worker_id(worker);
  request.set_cordoned(is_cordoned);
  request.set_actor(UserName());
  NORMLAB_ASSIGN_OR_RETURN(const auto response, session.Connect()->SetWorkerCordon(request));
  if (session.is_json()) {
    fmt::print("{}", ToJson(response));
    return ExitCode::kOk;
  }
  const char* state = is_cordoned ? "cordoned" : "uncordoned";
  fmt::print("{} {}{}\n", worker, response.changed() ? "" : "was already ", state);
  if (is_cordoned) session.Hint(fmt::format("what it runs goes on; undo with: normlab uncordon {}", worker));
  return ExitCode::kOk;
}

void AddOneCordon(CLI::App& app, Session& session, bool is_cordoned) {
  auto options = std::make_shared<CordonOptions>();
  const std::string name = is_cordoned ? "cordon" : "uncordon";
  CLI::App* command = AddCommand(
      app, session, name,
      is_cordoned ? "Place no new work on a worker; what it runs goes on" : "Let a cordoned worker take work again",
      fmt::format("  normlab {} worker-1", name), options,
      [&session, is_cordoned](const CordonOptions& chosen) { return RunCordon(chosen.worker, is_cordoned, session); });
  command->add_option("worker", options->worker, "Name as in `normlab workers`")->required()->type_name("WORKER");
}

}  // namespace

void AddWorkers(CLI::App& app, Session& session) {
  AddCommand(app, session, "workers", "List workers: state, what they run, labels",
             "  normlab workers\n"
             "  normlab workers -o json",
             std::make_shared<NoOptions>(), [&session](const NoOptions&) { return RunWorkers(session); });
}

void AddCordon(CLI::App& app, Session& session) {
  AddOneCordon(app, session, true);
  AddOneCordon(app, session, false);
}

}  // namespace normlab::cli
