// What the control plane costs: durable submits per second, time from submit to assignment, and the disk's own limit.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/time/clock.h"
#include "bench/control/coordinator_process.h"
#include "bench/control/figures.h"
#include "bench/control/fleet.h"
#include "bench/control/submitters.h"
#include "common/grpc_status.h"
#include "common/status.h"
#include "common/version.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"

namespace normlab::bench {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(60);
constexpr size_t kSmallRecordBytes = 512;

struct Options {
  std::string coordinator;
  std::string folder;
  std::string json;
  int rounds = 12;
  double round_seconds = 0.4;
  int clients = 64;
  int workers = 1000;
  int assignments = 300;
};

/// Small records appended and synced one by one, per second: what one writer without group commit could reach.
absl::StatusOr<double> MeasureSyncs(const std::string& folder, absl::Duration duration) {
  const std::string path = folder + "/syncs";
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return absl::UnavailableError(fmt::format("cannot create {}: {}", path, strerror(errno)));
  const std::string record(kSmallRecordBytes, 'x');
  int64_t count = 0;
  int error = 0;
  const absl::Time begin = absl::Now();
  while (error == 0 && absl::Now() < begin + duration) {
    if (write(fd, record.data(), record.size()) != static_cast<ssize_t>(record.size()) || fdatasync(fd) != 0) {
      error = errno;
    }
    ++count;
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  close(fd);
  unlink(path.c_str());
  if (error != 0) return absl::UnavailableError(fmt::format("cannot write {}: {}", path, strerror(error)));
  return static_cast<double>(count) / seconds;
}

std::vector<double> Ratios(const std::vector<double>& values, const std::vector<double>& peers) {
  std::vector<double> ratios;
  for (size_t i = 0; i < values.size(); ++i) ratios.push_back(values[i] / peers[i]);
  return ratios;
}

/// Syncs and submits take turns, so that a disk which changes its speed changes all of them.
absl::StatusOr<std::vector<Figure>> MeasureSubmits(const Options& options, const std::string& folder) {
  NORMLAB_ASSIGN_OR_RETURN(const auto coordinator, CoordinatorProcess::Start(options.coordinator, folder + "/submits"));
  Submitters one(coordinator->grpc_address(), 1);
  Submitters many(coordinator->grpc_address(), options.clients);
  const absl::Duration duration = absl::Seconds(options.round_seconds);
  std::vector<double> syncs, one_rates, many_rates;
  for (int round = 0; round < options.rounds; ++round) {
    NORMLAB_ASSIGN_OR_RETURN(syncs.emplace_back(), MeasureSyncs(folder, duration));
    NORMLAB_ASSIGN_OR_RETURN(one_rates.emplace_back(), one.Measure(duration));
    NORMLAB_ASSIGN_OR_RETURN(many_rates.emplace_back(), many.Measure(duration));
  }
  const std::string many_name = fmt::format("control_submits_{}_clients", options.clients);
  return std::vector<Figure>{Summarize("control_fdatasyncs", "syncs/s", syncs),
                             Summarize("control_submits_1_client", "submits/s", one_rates),
                             Summarize(many_name, "submits/s", many_rates),
                             Summarize("control_submits_1_client_per_fdatasync", "ratio", Ratios(one_rates, syncs)),
                             Summarize(many_name + "_per_fdatasync", "ratio", Ratios(many_rates, syncs))};
}

/// Submits one experiment of `num_runs` and returns for each run the milliseconds until a worker was asked to start it.
absl::StatusOr<std::vector<double>> TimeToAssignment(v1::ExperimentService::Stub& stub, AssignmentBoard& board,
                                                     const std::string& request_id, int num_runs) {
  v1::CreateExperimentRequest request;
  *request.mutable_spec() = SmallExperiment(num_runs);
  request.set_owner("bench");
  request.set_request_id(request_id);
  v1::CreateExperimentResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoSeconds(kTimeout));
  const absl::Time begin = absl::Now();
  NORMLAB_RETURN_IF_ERROR(FromGrpc(stub.CreateExperiment(&context, request, &response)));
  std::vector<double> milliseconds;
  for (const std::string& run_id : response.run_ids()) {
    NORMLAB_ASSIGN_OR_RETURN(const absl::Time start, board.WaitForStart(run_id, kTimeout));
    milliseconds.push_back(absl::ToDoubleMilliseconds(start - begin));
  }
  return milliseconds;
}

absl::StatusOr<std::vector<Figure>> MeasureAssignments(const Options& options, const std::string& folder) {
  NORMLAB_ASSIGN_OR_RETURN(const auto coordinator,
                           CoordinatorProcess::Start(options.coordinator, folder + "/assignments"));
  AssignmentBoard board;
  const Fleet fleet(coordinator->grpc_address(), options.workers, board);
  NORMLAB_RETURN_IF_ERROR(board.WaitForWelcomes(options.workers, kTimeout));
  const auto stub = v1::ExperimentService::NewStub(OwnConnection(coordinator->grpc_address()));

  std::vector<double> single;
  for (int i = 0; i < options.assignments; ++i) {
    NORMLAB_ASSIGN_OR_RETURN(const auto times, TimeToAssignment(*stub, board, fmt::format("single-{}", i), 1));
    single.push_back(times.front());
  }
  NORMLAB_ASSIGN_OR_RETURN(const auto burst, TimeToAssignment(*stub, board, "burst", options.workers));
  const std::string burst_name = fmt::format("control_assignment_of_{}_runs", options.workers);
  return std::vector<Figure>{
      Summarize("control_assignment_median", "ms", single), Summarize("control_assignment_p99", "ms", single, 0.99),
      Summarize(burst_name + "_median", "ms", burst), Summarize(burst_name + "_p99", "ms", burst, 0.99)};
}

/// Every simulated worker is a connection of its own, here and in the coordinator, which inherits the limit.
void RaiseOpenFilesLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

absl::Status MeasureAll(const Options& options, const std::string& folder) {
  std::vector<Figure> figures;
  for (const auto measure : {MeasureSubmits, MeasureAssignments}) {
    NORMLAB_ASSIGN_OR_RETURN(const std::vector<Figure> measured, measure(options, folder));
    for (const Figure& figure : measured) fmt::print("{}\n", ToLine(figure));
    std::fflush(stdout);
    figures.insert(figures.end(), measured.begin(), measured.end());
  }
  if (options.json.empty()) return absl::OkStatus();
  return WriteJson(options.json, figures, {{"normlab", kVersion}, {"grpc", grpc::Version()}}, DescribeMachine(folder));
}

int Main(int argc, char** argv) {
  const std::filesystem::path own_folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  Options options{.coordinator = own_folder / "normlab-coordinator", .folder = own_folder.parent_path()};
  CLI::App app(
      "Durable submits per second and time from submit to assignment of a real coordinator, beside the rate at "
      "which the same disk syncs small records.");
  app.add_option("--coordinator", options.coordinator, "The normlab-coordinator to measure")->capture_default_str();
  app.add_option("--folder", options.folder, "Where the temporary data folder goes: its disk is measured")
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "Times each rate is measured")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--round-seconds", options.round_seconds, "Seconds of one measurement")
      ->check(CLI::Range(0.01, 600.0))
      ->capture_default_str();
  app.add_option("--clients", options.clients, "Clients that submit at once")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  app.add_option("--workers", options.workers, "Simulated workers")->check(CLI::Range(1, 10000))->capture_default_str();
  app.add_option("--assignments", options.assignments, "Runs submitted one by one")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--json", options.json, "Also write the figures with versions and machine to this file");
  CLI11_PARSE(app, argc, argv);

  RaiseOpenFilesLimit();
  std::string folder = options.folder + "/bench-control-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) {
    fmt::print(stderr, "normlab-bench-control: cannot create {}: {}\n", folder, strerror(errno));
    return 1;
  }
  const absl::Status status = MeasureAll(options, folder);
  if (!status.ok()) fmt::print(stderr, "normlab-bench-control: {}\n", status.ToString());
  std::error_code ignored;  // What is left over is in the build folder and named for what it is.
  std::filesystem::remove_all(folder, ignored);
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace normlab::bench

int main(int argc, char** argv) { return normlab::bench::Main(argc, argv); }
