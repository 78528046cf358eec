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

/// A channel with a connection of its own: gRPC would share one among channels of the same address.
std::shared_ptr<grpc::Channel> OwnConnection(const std::string& address);

/// Clients that submit experiments of one run, each over its own connection and each waiting for its answer before the
/// next submit. Not thread safe.
class Submitters {
 public:
  Submitters(const std::string& address, int num_clients);

  /// Acknowledged submits per second over about `duration`, or the first error of any client.
  absl::StatusOr<double> Measure(absl::Duration duration);

 private:
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<v1::ExperimentService::Stub>> stubs_;
  int64_t rounds_ = 0;
};

}  // namespace normlab::bench
