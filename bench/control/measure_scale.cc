#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "bench/control/coordinator_process.h"
#include "bench/control/measurements.h"
#include "bench/control/submitters.h"
#include "common/grpc_status.h"
#include "common/status.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "normlab/v1/run.grpc.pb.h"

namespace normlab::bench {
namespace {

constexpr std::chrono::seconds kCallTimeout{60};

/// Submits runs and cancels them, experiment by experiment, until `count` more have ended; milliseconds of each cancel.
absl::StatusOr<std::vector<double>> AddEnded(const std::string& address, int count, const std::string& name) {
  const auto channel = OwnConnection(address);
  const auto experiments = v1::ExperimentService::NewStub(channel);
  const auto runs = v1::RunService::NewStub(channel);
  std::vector<double> milliseconds;
  for (int done = 0; done < count; done += kRunsPerExperiment) {
    NORMLAB_ASSIGN_OR_RETURN(const v1::CreateExperimentResponse created,
                             SubmitExperiment(*experiments, fmt::format("{}-{}", name, done), kRunsPerExperiment));
    v1::CancelRunsRequest request;
    request.mutable_selector()->set_experiment_id(created.experiment().id());
    request.set_actor("bench");
    v1::ChangeRunsResponse response;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
    const absl::Time begin = absl::Now();
    NORMLAB_RETURN_IF_ERROR(FromGrpc(runs->CancelRuns(&context, request, &response)));
    milliseconds.push_back(absl::ToDoubleMilliseconds(absl::Now() - begin));
  }
  return milliseconds;
}

struct Rates {
  std::vector<double> per_second;
  std::vector<double> per_cpu_second;
};

absl::StatusOr<Rates> MeasureRates(const CoordinatorProcess& coordinator, const Options& options) {
  Submitters many(coordinator.grpc_address(), options.clients);
  Rates rates;
  for (int round = 0; round < options.rounds; ++round) {
    const double cpu_before = coordinator.CpuSeconds();
    NORMLAB_ASSIGN_OR_RETURN(const Submitters::Round measured, many.Measure(absl::Seconds(options.round_seconds)));
    rates.per_second.push_back(measured.per_second);
    rates.per_cpu_second.push_back(static_cast<double>(measured.count) / (coordinator.CpuSeconds() - cpu_before));
  }
  return rates;
}

}  // namespace

absl::StatusOr<std::vector<Figure>> MeasureScale(const Options& options, const std::string& folder) {
  const std::string data = folder + "/scale";
  NORMLAB_ASSIGN_OR_RETURN(auto coordinator, CoordinatorProcess::Start(options.coordinator, data));
  NORMLAB_RETURN_IF_ERROR(AddEnded(coordinator->grpc_address(), kRunsPerExperiment, "few").status());
  NORMLAB_ASSIGN_OR_RETURN(const Rates few, MeasureRates(*coordinator, options));
  const int64_t bytes_before = coordinator->ResidentBytes();
  const int more = options.ended - kRunsPerExperiment;
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<double> cancels, AddEnded(coordinator->grpc_address(), more, "many"));
  const double bytes_per_run =
      static_cast<double>(coordinator->ResidentBytes() - bytes_before) / static_cast<double>(more);
  NORMLAB_ASSIGN_OR_RETURN(const Rates many, MeasureRates(*coordinator, options));
  std::vector<double> starts;
  for (int i = 0; i < 3; ++i) {
    coordinator.reset();
    const absl::Time begin = absl::Now();
    NORMLAB_ASSIGN_OR_RETURN(coordinator, CoordinatorProcess::Start(options.coordinator, data));
    starts.push_back(absl::ToDoubleSeconds(absl::Now() - begin));
  }
  const auto name = [&](const char* what) { return fmt::format("control_{}_{}_ended", what, options.ended); };
  return std::vector<Figure>{
      Summarize(fmt::format("control_cancel_of_{}_runs", kRunsPerExperiment), "ms", cancels),
      Summarize(fmt::format("control_submits_{}_ended", kRunsPerExperiment), "submits/s", few.per_second),
      Summarize(name("submits"), "submits/s", many.per_second),
      Summarize(fmt::format("control_submits_per_daemon_cpu_second_{}_ended", kRunsPerExperiment), "submits",
                few.per_cpu_second),
      Summarize(name("submits_per_daemon_cpu_second"), "submits", many.per_cpu_second),
      Summarize("control_memory_per_ended_run", "bytes", {bytes_per_run}),
      Summarize(name("start"), "s", starts)};
}

}  // namespace normlab::bench
