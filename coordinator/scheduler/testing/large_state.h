#pragma once

#include <absl/status/status.h>
#include <fmt/format.h>

#include <map>
#include <string>

#include "common/status.h"
#include "coordinator/engine/engine.h"

// States of the size that a scheduling pass is measured on.
namespace normlab::scheduler {

inline absl::Status ApplyAtEpoch(engine::State& state, const engine::Command& command) {
  engine::Changes changes;
  return engine::Apply({}, state, command, absl::UnixEpoch(), changes).status();
}

/// Idle workers, 8 on a host, half of them with gpu=h100 and half with gpu=a100; each also has labels of its own.
inline absl::Status AddWorkers(engine::State& state, int count) {
  for (int i = 0; i < count; ++i) {
    engine::WorkerHello hello = {.worker = {fmt::format("worker-{:05}", i)}, .incarnation = "a"};
    hello.info.host = fmt::format("host-{:04}", i / 8);
    hello.info.labels = {{"gpu", i % 2 == 0 ? "h100" : "a100"}, {"name", hello.worker.name}, {"zone", "b"}};
    NORMLAB_RETURN_IF_ERROR(ApplyAtEpoch(state, hello));
  }
  return absl::OkStatus();
}

/// One experiment of `count` queued runs.
inline absl::Status AddRuns(engine::State& state, int count, int world_size,
                            const std::map<std::string, std::string>& worker_labels) {
  engine::CreateExperiment create = {.request_id = fmt::format("r{}", state.experiments.size())};
  create.runs.assign(static_cast<size_t>(count), {.worker_labels = worker_labels, .world_size = world_size});
  return ApplyAtEpoch(state, create);
}

}  // namespace normlab::scheduler
