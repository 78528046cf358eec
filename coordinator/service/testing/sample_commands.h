#pragma once

#include <string>

#include "common/ids.h"
#include "coordinator/engine/command.h"
#include "normlab/v1/experiment.pb.h"

// Small requests and commands for tests of the loop and of the services.
namespace normlab {

inline constexpr RunId kFirstRun{ExperimentId{1}, 1};
inline constexpr RunId kSecondRun{ExperimentId{1}, 2};

/// A valid spec with two runs, pre_ln and lns.
inline v1::ExperimentSpec MakeSpec() {
  v1::ExperimentSpec spec;
  spec.set_name("depth");
  v1::ModelSpec* model = spec.mutable_base()->mutable_model();
  model->set_num_layers(2);
  model->set_hidden(64);
  model->set_num_heads(2);
  model->set_ffn_hidden(128);
  spec.mutable_base()->mutable_data()->set_dataset("text");
  spec.mutable_base()->mutable_train()->set_steps(10);
  auto& axis = (*spec.mutable_matrix())["norm.scheme"];
  axis.add_values()->set_string_value("pre_ln");
  axis.add_values()->set_string_value("lns");
  return spec;
}

inline engine::CreateExperiment MakeCreate(const std::string& request_id, int num_runs = 1) {
  v1::RunSpec spec;
  spec.mutable_train()->set_steps(10);
  spec.mutable_resources()->set_workers(1);
  spec.set_retries_max(3);
  engine::CreateExperiment command{.request_id = request_id, .owner = "ada", .spec_digest = request_id};
  command.runs.assign(num_runs, {.spec = spec.SerializeAsString(), .world_size = 1, .retries_max = 3, .steps = 10});
  return command;
}

inline engine::WorkerHello MakeHello(const std::string& worker) {
  return {.worker = {worker}, .incarnation = "i-1", .info = {.host = "h", .metrics_address = "127.0.0.1:9"}};
}

inline engine::WorkerReport MakeReport(const std::string& worker, int64_t sequence, RunId run, engine::Report report) {
  return {.worker = {worker},
          .incarnation = "i-1",
          .sequence = sequence,
          .attempt = {.run = run, .attempt = 1, .rank = 0},
          .time = absl::FromUnixSeconds(1'700'000'000),
          .report = std::move(report)};
}

}  // namespace normlab
