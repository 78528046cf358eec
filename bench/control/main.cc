// What the control plane costs, beside the disk's own limit.
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/control/measurements.h"
#include "bench/figures.h"
#include "common/status.h"
#include "common/version.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"

namespace normlab::bench {
namespace {

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
  for (const auto measure : {MeasurePasses, MeasureSubmits, MeasureAssignments, MeasureScale}) {
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
      "Scheduling passes; durable submits, placements, cancels, restarts and memory of a real coordinator, beside the "
      "rate at which the "
      "same disk syncs small records.");
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
  app.add_option("--queued", options.queued, "Runs that wait when the workers come, for the rate of placements")
      ->check(CLI::Range(1000, 10'000'000))
      ->capture_default_str();
  app.add_option("--ended", options.ended, "Ended runs in the store at the end, for what they cost the others")
      ->check(CLI::Range(2 * kRunsPerExperiment, 100'000'000))
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
