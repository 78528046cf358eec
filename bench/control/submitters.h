#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "normlab/v1/experiment.grpc.pb.h"

namespace normlab::bench {

/// An experiment of `num_runs` small runs that differ in their seeds.
v1::ExperimentSpec SmallExperiment(int num_runs);

/// Creates one of `num_runs`, owned by "bench".
absl::StatusOr<v1::CreateExperimentResponse> SubmitExperiment(v1::ExperimentService::Stub& stub,
                                                              const std::string& request_id, int num_runs);

/// A channel with a connection of its own: gRPC would share one among channels of the same address.
std::shared_ptr<grpc::Channel> OwnConnection(const std::string& address);

/// Clients that submit experiments of one run, each over its own connection and each waiting for its answer before the
/// next submit. Not thread safe.
class Submitters {
 public:
  Submitters(const std::string& address, int num_clients);

  struct Round {
    double per_second = 0;             // Acknowledged submits.
    int64_t count = 0;                 // Likewise, in all.
    std::vector<double> milliseconds;  // Of each call.
  };
  /// Submits for about `duration`; the first error of any client.
  absl::StatusOr<Round> Measure(absl::Duration duration);

 private:
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<v1::ExperimentService::Stub>> stubs_;
  int64_t rounds_ = 0;
};

}  // namespace normlab::bench
