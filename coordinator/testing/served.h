#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "common/testing/fake_clock.h"
#include "coordinator/loop.h"
#include "coordinator/service/server.h"
#include "coordinator/service/testing/sample_commands.h"
#include "coordinator/store/store.h"
#include "normlab/v1/experiment.grpc.pb.h"
#include "normlab/v1/run.grpc.pb.h"

namespace normlab {

/// The services over a real loop and a real gRPC server, on a store of the test's choice.
class Served {
 public:
  explicit Served(store::Store& store, service::Server::Options options = {}) {
    loop_ = *Loop::Create(engine::Options(), store, clock_, metrics_);
    options.address = {.host = "127.0.0.1"};
    options.http_address = "127.0.0.1:1";
    options.on_call_done = [this](const std::string& method, const std::string& code, absl::Duration took) {
      metrics_.ObserveCall(method, code, absl::ToDoubleSeconds(took));
    };
    server_ = std::make_unique<service::Server>(*loop_, store, std::move(options));
    for (service::TickListener* listener : server_->listeners()) loop_->AddListener(listener);
    const absl::Status listens = server_->Listen();
    EXPECT_TRUE(listens.ok()) << listens;
    thread_ = std::thread([this] { ran_ = loop_->Run(); });
    channel_ = server_->InProcessChannel();
    runs_ = v1::RunService::NewStub(channel_);
    experiments_ = v1::ExperimentService::NewStub(channel_);
  }

  ~Served() {
    server_->Shutdown(absl::ZeroDuration());
    loop_->Stop();
    thread_.join();
  }

  FakeClock& clock() { return clock_; }
  Metrics& metrics() { return metrics_; }
  Loop& loop() { return *loop_; }
  service::Server& server() { return *server_; }
  std::shared_ptr<grpc::Channel> channel() { return channel_; }
  v1::RunService::Stub& runs() { return *runs_; }

  /// An experiment with one run per seed; the ids of its runs.
  std::vector<std::string> Create(const std::string& request_id, int num_runs = 2) {
    v1::CreateExperimentRequest request;
    *request.mutable_spec() = MakeSpec();
    request.mutable_spec()->clear_matrix();
    auto& seeds = (*request.mutable_spec()->mutable_matrix())["seed"];
    for (int seed = 1; seed <= num_runs; ++seed) seeds.add_values()->set_number_value(seed);
    request.set_request_id(request_id);
    request.set_owner("ada");
    grpc::ClientContext context;
    v1::CreateExperimentResponse response;
    const grpc::Status status = experiments_->CreateExperiment(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return {response.run_ids().begin(), response.run_ids().end()};
  }

  v1::ChangeRunsResponse Cancel(const v1::RunSelector& selector) {
    v1::CancelRunsRequest request;
    *request.mutable_selector() = selector;
    request.set_actor("ada");
    grpc::ClientContext context;
    v1::ChangeRunsResponse response;
    const grpc::Status status = runs_->CancelRuns(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  v1::ChangeRunsResponse Cancel(const std::string& run) {
    v1::RunSelector selector;
    selector.add_run_ids(run);
    return Cancel(selector);
  }

  grpc::Status Update(const v1::UpdateRunsRequest& request, v1::ChangeRunsResponse* response) {
    grpc::ClientContext context;
    return runs_->UpdateRuns(&context, request, response);
  }

 private:
  FakeClock clock_;
  Metrics metrics_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<service::Server> server_;
  std::thread thread_;
  absl::Status ran_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::RunService::Stub> runs_;
  std::unique_ptr<v1::ExperimentService::Stub> experiments_;
};

}  // namespace normlab
