#include "bench/control/submitters.h"

#include <chrono>
#include <latch>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "common/grpc_status.h"
#include "common/status.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"

namespace normlab::bench {
namespace {

constexpr std::chrono::seconds kCallTimeout{30};

/// Submits until `deadline`; the milliseconds of each call, all of which were acknowledged.
absl::StatusOr<std::vector<double>> SubmitUntil(v1::ExperimentService::Stub& stub, const std::string& client,
                                                absl::Time deadline) {
  v1::CreateExperimentRequest request;
  *request.mutable_spec() = SmallExperiment(1);
  request.set_owner("bench");
  std::vector<double> milliseconds;
  for (absl::Time begin = absl::Now(); begin < deadline;) {
    request.set_request_id(fmt::format("{}-{}", client, milliseconds.size()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
    v1::CreateExperimentResponse response;
    const grpc::Status status = stub.CreateExperiment(&context, request, &response);
    if (!status.ok()) return FromGrpc(status);
    const absl::Time end = absl::Now();
    milliseconds.push_back(absl::ToDoubleMilliseconds(end - begin));
    begin = end;
  }
  return milliseconds;
}

}  // namespace

v1::ExperimentSpec SmallExperiment(int num_runs) {
  v1::ExperimentSpec spec;
  spec.set_name("bench");
  v1::ModelSpec& model = *spec.mutable_base()->mutable_model();
  model.set_num_layers(12);
  model.set_hidden(256);
  model.set_num_heads(8);
  model.set_ffn_hidden(688);
  spec.mutable_base()->mutable_data()->set_dataset("text");
  spec.mutable_base()->mutable_train()->set_steps(1);
  if (num_runs > 1) {
    auto& seeds = (*spec.mutable_matrix())["seed"];
    for (int seed = 1; seed <= num_runs; ++seed) seeds.add_values()->set_number_value(seed);
  }
  return spec;
}

absl::StatusOr<v1::CreateExperimentResponse> SubmitExperiment(v1::ExperimentService::Stub& stub,
                                                              const std::string& request_id, int num_runs) {
  v1::CreateExperimentRequest request;
  *request.mutable_spec() = SmallExperiment(num_runs);
  request.set_owner("bench");
  request.set_request_id(request_id);
  v1::CreateExperimentResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
  NORMLAB_RETURN_IF_ERROR(FromGrpc(stub.CreateExperiment(&context, request, &response)));
  return response;
}

std::shared_ptr<grpc::Channel> OwnConnection(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

Submitters::Submitters(const std::string& address, int num_clients) {
  for (int i = 0; i < num_clients; ++i) {
    channels_.push_back(OwnConnection(address));
    stubs_.push_back(v1::ExperimentService::NewStub(channels_.back()));
  }
}

absl::StatusOr<Submitters::Round> Submitters::Measure(absl::Duration duration) {
  ++rounds_;
  std::vector<absl::StatusOr<std::vector<double>>> results(stubs_.size());
  std::latch connected(static_cast<std::ptrdiff_t>(stubs_.size()) + 1);
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < stubs_.size(); ++i) {
    threads.emplace_back([&, i] {
      const std::string client = fmt::format("{}-{}-{}", stubs_.size(), i, rounds_);
      // The clock starts when all connections are open; one that is not fails in its first call and says why.
      channels_[i]->WaitForConnected(std::chrono::system_clock::now() + kCallTimeout);
      connected.arrive_and_wait();
      results[i] = SubmitUntil(*stubs_[i], client, absl::Now() + duration);
    });
  }
  connected.arrive_and_wait();
  const absl::Time begin = absl::Now();
  threads.clear();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  Round round;
  for (const absl::StatusOr<std::vector<double>>& result : results) {
    if (!result.ok()) return result.status();
    round.milliseconds.insert(round.milliseconds.end(), result->begin(), result->end());
  }
  round.count = static_cast<int64_t>(round.milliseconds.size());
  round.per_second = static_cast<double>(round.count) / seconds;
  return round;
}

}  // namespace normlab::bench
