#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "bench/control/coordinator_process.h"
#include "bench/control/fleet.h"
#include "bench/control/measurements.h"
#include "bench/control/submitters.h"
#include "common/status.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"

namespace normlab::bench {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(60);

/// Submits one experiment of `num_runs` and returns for each run the milliseconds until a worker was asked to start it.
absl::StatusOr<std::vector<double>> TimeToAssignment(v1::ExperimentService::Stub& stub, AssignmentBoard& board,
                                                     const std::string& request_id, int num_runs) {
  const absl::Time begin = absl::Now();
  NORMLAB_ASSIGN_OR_RETURN(const v1::CreateExperimentResponse response, SubmitExperiment(stub, request_id, num_runs));
  std::vector<double> milliseconds;
  for (const std::string& run_id : response.run_ids()) {
    NORMLAB_ASSIGN_OR_RETURN(const absl::Time start, board.WaitForStart(run_id, kTimeout));
    milliseconds.push_back(absl::ToDoubleMilliseconds(start - begin));
  }
  return milliseconds;
}

/// Placements per second from the first welcome on, with `options.queued` runs waiting.
absl::StatusOr<std::vector<Figure>> MeasurePlacements(const Options& options, const std::string& folder) {
  NORMLAB_ASSIGN_OR_RETURN(const auto coordinator,
                           CoordinatorProcess::Start(options.coordinator, folder + "/placements"));
  const auto stub = v1::ExperimentService::NewStub(OwnConnection(coordinator->grpc_address()));
  const int64_t bytes_before = coordinator->ResidentBytes();
  for (int begin = 0; begin < options.queued; begin += kRunsPerExperiment) {
    const int num_runs = std::min(kRunsPerExperiment, options.queued - begin);
    NORMLAB_RETURN_IF_ERROR(SubmitExperiment(*stub, fmt::format("queued-{}", begin), num_runs).status());
  }
  const double bytes_per_run =
      static_cast<double>(coordinator->ResidentBytes() - bytes_before) / static_cast<double>(options.queued);
  AssignmentBoard board;
  const Fleet fleet(coordinator->grpc_address(), options.workers, board);
  NORMLAB_RETURN_IF_ERROR(board.WaitForWelcomes(options.workers, kTimeout));
  // The first ones go out while workers still connect.
  auto counted = static_cast<size_t>(options.workers);
  NORMLAB_ASSIGN_OR_RETURN(absl::Time begin, board.WaitForStarts(counted, kTimeout));
  std::vector<double> rates;
  const size_t part = static_cast<size_t>(options.queued) / 10;
  while (counted + part <= static_cast<size_t>(options.queued) / 2) {
    counted += part;
    NORMLAB_ASSIGN_OR_RETURN(const absl::Time end, board.WaitForStarts(counted, kTimeout));
    rates.push_back(static_cast<double>(part) / absl::ToDoubleSeconds(end - begin));
    begin = end;
  }
  return std::vector<Figure>{
      Summarize(fmt::format("control_placements_{}_queued", options.queued), "placements/s", rates),
      Summarize("control_memory_per_queued_run", "bytes", {bytes_per_run})};
}

}  // namespace

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
  std::vector<Figure> figures = {
      Summarize("control_assignment_median", "ms", single), Summarize("control_assignment_p99", "ms", single, 0.99),
      Summarize(burst_name + "_median", "ms", burst), Summarize(burst_name + "_p99", "ms", burst, 0.99)};
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<Figure> placements, MeasurePlacements(options, folder));
  figures.insert(figures.end(), placements.begin(), placements.end());
  return figures;
}

}  // namespace normlab::bench
