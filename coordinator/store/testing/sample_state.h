#pragma once

#include <memory>
#include <string>

#include "coordinator/engine/effect.h"
#include "coordinator/engine/state.h"
#include "normlab/v1/experiment.pb.h"
#include "normlab/v1/trainer_event.pb.h"

// A state with one experiment of two runs, every field of the first set.
namespace normlab::store {

inline constexpr ExperimentId kSampleExperiment{7};
inline constexpr RunId kSampleRun{kSampleExperiment, 1};
inline constexpr RunId kOtherRun{kSampleExperiment, 2};
inline const absl::Time kSampleTime = absl::FromUnixMillis(1'700'000'000'123);

inline v1::Started MakeSampleStarted() {
  v1::Started started;
  started.set_first_step(11);
  started.set_torch_version("2.11.0");
  return started;
}

inline engine::Run MakeSampleRun() {
  v1::RunSpec spec;
  spec.set_seed(3);
  spec.set_retries_max(4);
  spec.mutable_train()->set_steps(100);
  spec.mutable_resources()->set_workers(2);
  (*spec.mutable_resources()->mutable_worker_labels())["zone"] = "a";
  auto info = std::make_shared<engine::RunInfo>();
  info->axes = {{"norm.scheme", "lns"}, {"seed", "3"}};
  info->labels = {{"team", "norms"}};
  info->worker_labels = {{"zone", "a"}};
  info->owner = "ada";
  info->spec = spec.SerializeAsString();
  info->world_size = 2;
  info->retries_max = 4;
  info->steps = 100;
  info->created_at = kSampleTime;
  v1::LayerReport layers;
  layers.set_step(10);
  layers.add_layers()->set_output_variance(1.5);
  return {.id = kSampleRun,
          .info = info,
          .priority = -3,
          .state = engine::RunState::kStopping,
          .attempt = 5,
          .failures = 2,
          .resume_from_attempt = 4,
          .stop_intent = engine::StopIntent::kRequeue,
          .outcome = engine::Outcome::kStopped,
          .outcome_detail = "stopped at step 12",
          .gang = {{"w-0"}, {"w-1"}},
          .ranks = {engine::RankState::kStarted, engine::RankState::kEnded},
          .rendezvous = "127.0.0.1:4000",
          .reason = "asked to stop",
          .queued_at = kSampleTime + absl::Seconds(1),
          .started_at = kSampleTime + absl::Seconds(2),
          .ended_at = kSampleTime + absl::Seconds(3),
          .not_before = kSampleTime + absl::Seconds(4),
          .requeue_request_id = "r-1",
          .progress = {.step = 12,
                       .loss = 2.5,
                       .lr = 0.001,
                       .tokens_per_second = 99,
                       .tokens = 1200,
                       .eval = engine::EvalResult{.step = 10, .loss = 2.6, .perplexity = 13.4, .tokens = 640},
                       .checkpoint = engine::Checkpoint{.step = 12, .name = "step-12-a5", .bytes = 77},
                       .last_layers = layers.SerializeAsString(),
                       .diverged = true,
                       .analysis_steps = {4, 10}},
          .environment = engine::AttemptEnvironment{.started = MakeSampleStarted().SerializeAsString(),
                                                    .worker_build = "0.1.0+abc",
                                                    .worker_host = "h",
                                                    .coordinator_build = "0.1.0+def",
                                                    .world_size = 2},
          .revision = 9};
}

inline engine::State MakeSampleState() {
  engine::State state;
  v1::ExperimentSpec spec;
  spec.set_name("depth");
  state.experiments[kSampleExperiment] = {.id = kSampleExperiment,
                                          .spec = spec.SerializeAsString(),
                                          .spec_digest = "abc",
                                          .request_id = "q-1",
                                          .owner = "ada",
                                          .created_at = kSampleTime,
                                          .num_runs = 2};
  state.runs[kSampleRun] = MakeSampleRun();
  engine::Run other = MakeSampleRun();
  other.id = kOtherRun;
  other.state = engine::RunState::kQueued;
  other.gang.clear();
  other.ranks.clear();
  other.started_at = other.ended_at = other.not_before = std::nullopt;
  other.progress = {};
  state.runs[kOtherRun] = other;
  state.last_experiment_number = 7;
  state.revision = 9;
  return state;
}

/// The changes that created MakeSampleState.
inline engine::Changes MakeSampleChanges() {
  engine::Changes changes;
  changes.experiments = {kSampleExperiment};
  changes.runs = {kSampleRun, kOtherRun};
  return changes;
}

}  // namespace normlab::store
