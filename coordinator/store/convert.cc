#include "coordinator/store/convert.h"

#include <absl/status/status.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "common/status.h"

namespace normlab::store {
namespace {

using engine::RunState;

constexpr int64_t kSecondsMin = -62'135'596'800;  // Year 1.
constexpr int64_t kSecondsMax = 253'402'300'799;  // End of year 9999.

static_assert(static_cast<int>(RunState::kQueued) == v1::QUEUED &&
              static_cast<int>(RunState::kStarting) == v1::STARTING &&
              static_cast<int>(RunState::kRunning) == v1::RUNNING &&
              static_cast<int>(RunState::kStopping) == v1::STOPPING &&
              static_cast<int>(RunState::kSucceeded) == v1::SUCCEEDED &&
              static_cast<int>(RunState::kFailed) == v1::FAILED &&
              static_cast<int>(RunState::kCancelled) == v1::CANCELLED);
static_assert(static_cast<int>(engine::Cause::kUser) == v1::CAUSE_USER &&
              static_cast<int>(engine::Cause::kTrainerStuck) == v1::CAUSE_TRAINER_STUCK &&
              static_cast<int>(engine::Cause::kFinished) == v1::CAUSE_FINISHED);

v1::RunState ToProto(RunState state) { return static_cast<v1::RunState>(state); }

/// Reads a number that stands for an enum whose values are `first` to `last`.
template <typename Enum>
absl::StatusOr<Enum> ToEnum(int number, Enum first, Enum last, const char* field) {
  if (number < static_cast<int>(first) || number > static_cast<int>(last)) {
    return absl::InvalidArgumentError(fmt::format("has {} {}, which this version does not know", field, number));
  }
  return static_cast<Enum>(number);
}

void PutFixed(const engine::Run& run, v1::Run& message) {
  message.set_id(run.id.ToString());
  message.set_experiment_id(run.id.experiment.ToString());
  message.mutable_axes()->insert(run.info->axes.begin(), run.info->axes.end());
  message.mutable_spec()->ParseFromString(run.info->spec);
  message.mutable_labels()->insert(run.info->labels.begin(), run.info->labels.end());
  message.set_owner(run.info->owner);
  *message.mutable_created_at() = ToTimestamp(run.info->created_at);
}

v1::AttemptEnvironment ToProto(const engine::AttemptEnvironment& environment) {
  v1::AttemptEnvironment message;
  message.mutable_started()->ParseFromString(environment.started);
  message.set_worker_build(environment.worker_build);
  message.set_worker_host(environment.worker_host);
  message.set_coordinator_build(environment.coordinator_build);
  message.set_world_size(environment.world_size);
  return message;
}

engine::AttemptEnvironment ReadEnvironment(const v1::AttemptEnvironment& message) {
  return {.started = message.started().SerializeAsString(),
          .worker_build = message.worker_build(),
          .worker_host = message.worker_host(),
          .coordinator_build = message.coordinator_build(),
          .world_size = message.world_size()};
}

void PutProgress(const engine::Run& run, v1::RunProgress& message) {
  const engine::Progress& progress = run.progress;
  message.set_step(progress.step);
  message.set_steps(run.info->steps);
  message.set_loss(progress.loss);
  message.set_lr(progress.lr);
  message.set_tokens_per_second(progress.tokens_per_second);
  message.set_tokens(progress.tokens);
  message.set_diverged(progress.diverged);
  if (progress.eval) {
    message.mutable_eval()->set_step(progress.eval->step);
    message.mutable_eval()->set_loss(progress.eval->loss);
    message.mutable_eval()->set_perplexity(progress.eval->perplexity);
    message.mutable_eval()->set_tokens(progress.eval->tokens);
  }
  if (progress.checkpoint) {
    message.mutable_checkpoint()->set_step(progress.checkpoint->step);
    message.mutable_checkpoint()->set_name(progress.checkpoint->name);
    message.mutable_checkpoint()->set_bytes(progress.checkpoint->bytes);
  }
  for (const int64_t step : progress.analysis_steps) message.add_analysis_steps(step);
  if (!progress.last_layers.empty()) message.mutable_layers()->ParseFromString(progress.last_layers);
}

void PutMoving(const engine::Run& run, v1::Run& message) {
  message.set_priority(run.priority);
  message.set_state(ToProto(run.state));
  message.set_attempt(run.attempt);
  message.set_failures(run.failures);
  for (const WorkerId& worker : run.gang) message.add_workers(worker.name);
  message.set_reason(run.reason);
  if (run.started_at) *message.mutable_started_at() = ToTimestamp(*run.started_at);
  if (run.ended_at) *message.mutable_ended_at() = ToTimestamp(*run.ended_at);
  if (run.not_before) *message.mutable_not_before() = ToTimestamp(*run.not_before);
  PutProgress(run, *message.mutable_progress());
  message.set_revision(run.revision);
  message.set_held(run.is_held);
  message.set_cause(static_cast<v1::Cause>(run.cause));
  if (run.environment) *message.mutable_environment() = ToProto(*run.environment);
}

/// The part of a run that never changes, as schema versions below 4 have it.
std::shared_ptr<const engine::RunInfo> ReadInfo(const v1::Run& message) {
  auto info = std::make_shared<engine::RunInfo>();
  const v1::RunSpec& spec = message.spec();
  info->axes = ToMap(message.axes());
  info->labels = ToMap(message.labels());
  info->worker_labels = ToMap(spec.resources().worker_labels());
  info->owner = message.owner();
  info->spec = spec.SerializeAsString();
  info->world_size = spec.resources().workers();
  info->smaller_worlds = SmallerWorlds(spec);
  info->on_preemption = ToRequeuePolicy(spec.resources().on_preemption());
  info->on_loss = ToRequeuePolicy(spec.resources().on_loss());
  info->retries_max = spec.retries_max();
  info->steps = spec.train().steps();
  info->created_at = FromTimestamp(message.created_at());
  return info;
}

absl::StatusOr<std::shared_ptr<const engine::RunInfo>> ReadInfo(const v1::StoredRunInfo& message) {
  auto info = std::make_shared<engine::RunInfo>();
  info->axes = ToMap(message.axes());
  info->labels = ToMap(message.labels());
  info->worker_labels = ToMap(message.worker_labels());
  info->owner = message.owner();
  info->spec = message.spec();
  info->world_size = message.world_size();
  info->smaller_worlds = {message.smaller_worlds().begin(), message.smaller_worlds().end()};
  using engine::RequeuePolicy;
  NORMLAB_ASSIGN_OR_RETURN(info->on_preemption, ToEnum(message.on_preemption(), RequeuePolicy::kFront,
                                                       RequeuePolicy::kNever, "policy on preemption"));
  NORMLAB_ASSIGN_OR_RETURN(info->on_loss,
                           ToEnum(message.on_loss(), RequeuePolicy::kFront, RequeuePolicy::kNever, "policy on loss"));
  info->retries_max = message.retries_max();
  info->steps = message.steps();
  info->created_at = FromTimestamp(message.created_at());
  return info;
}

engine::Progress ReadProgress(const v1::RunProgress& message) {
  engine::Progress progress{.step = message.step(),
                            .loss = message.loss(),
                            .lr = message.lr(),
                            .tokens_per_second = message.tokens_per_second(),
                            .tokens = message.tokens(),
                            .diverged = message.diverged()};
  if (message.has_eval()) {
    const v1::EvalReport& eval = message.eval();
    progress.eval = {
        .step = eval.step(), .loss = eval.loss(), .perplexity = eval.perplexity(), .tokens = eval.tokens()};
  }
  if (message.has_checkpoint()) {
    const v1::CheckpointSaved& saved = message.checkpoint();
    progress.checkpoint = {.step = saved.step(), .name = saved.name(), .bytes = saved.bytes()};
  }
  progress.analysis_steps = {message.analysis_steps().begin(), message.analysis_steps().end()};
  if (message.has_layers()) progress.last_layers = message.layers().SerializeAsString();
  return progress;
}

std::optional<absl::Time> ReadTime(bool has_time, const google::protobuf::Timestamp& timestamp) {
  return has_time ? std::optional(FromTimestamp(timestamp)) : std::nullopt;
}

}  // namespace

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  const absl::Time bounded = std::clamp(time, absl::FromUnixSeconds(kSecondsMin), absl::FromUnixSeconds(kSecondsMax));
  google::protobuf::Timestamp timestamp;
  const int64_t seconds = absl::ToUnixSeconds(bounded);  // Rounds down, so that nanos are never negative.
  timestamp.set_seconds(seconds);
  timestamp.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(bounded - absl::FromUnixSeconds(seconds))));
  return timestamp;
}

absl::Time FromTimestamp(const google::protobuf::Timestamp& timestamp) {
  return absl::FromUnixSeconds(std::clamp<int64_t>(timestamp.seconds(), kSecondsMin, kSecondsMax)) +
         absl::Nanoseconds(std::clamp(timestamp.nanos(), 0, 999'999'999));
}

std::vector<int> SmallerWorlds(const v1::RunSpec& spec) {
  std::vector<int> worlds;
  const int workers_min = spec.resources().workers_min();
  if (workers_min == 0) return worlds;
  const int batch_size = spec.train().batch_size();
  const int micro_batch_size = std::max(1, spec.train().micro_batch_size());
  for (int world = spec.resources().workers() - 1; world >= workers_min; --world) {
    if (batch_size % (world * micro_batch_size) == 0) worlds.push_back(world);
  }
  return worlds;
}

engine::RequeuePolicy ToRequeuePolicy(const std::string& word) {
  if (word == "back") return engine::RequeuePolicy::kBack;
  return word == "never" ? engine::RequeuePolicy::kNever : engine::RequeuePolicy::kFront;
}

v1::StoredUsage ToStored(const engine::Owner& owner) {
  v1::StoredUsage stored;
  stored.set_worker_seconds(owner.worker_seconds);
  *stored.mutable_as_of() = ToTimestamp(owner.as_of);
  return stored;
}

engine::Owner FromStored(const v1::StoredUsage& stored) {
  return {.worker_seconds = stored.worker_seconds(), .as_of = FromTimestamp(stored.as_of())};
}

std::map<std::string, std::string> ToMap(const google::protobuf::Map<std::string, std::string>& map) {
  return {map.begin(), map.end()};
}

v1::Run ToProto(const engine::Run& run) {
  v1::Run message;
  PutFixed(run, message);
  PutMoving(run, message);
  return message;
}

void FillWithoutSpec(const engine::Experiment& experiment, v1::Experiment& message) {
  message.set_id(experiment.id.ToString());
  message.set_owner(experiment.owner);
  *message.mutable_created_at() = ToTimestamp(experiment.created_at);
  message.set_num_runs(experiment.num_runs);
}

v1::Event ToProto(const engine::EventRecord& event) {
  v1::Event message;
  *message.mutable_time() = ToTimestamp(event.time);
  message.set_actor(event.actor);
  message.set_state(ToProto(event.state));
  message.set_attempt(event.attempt);
  message.set_reason(event.reason);
  message.set_cause(static_cast<v1::Cause>(event.cause));
  if (event.environment) *message.mutable_environment() = ToProto(*event.environment);
  return message;
}

v1::LogEntry ToProto(const engine::LogRecord& record) {
  v1::LogEntry message;
  *message.mutable_time() = ToTimestamp(record.time);
  message.set_attempt(record.attempt);
  message.set_rank(record.rank);
  message.mutable_line()->ParseFromString(record.payload);
  return message;
}

v1::StepHistory ToProto(const engine::HistoryRecord& record) {
  v1::StepHistory message;
  message.set_step(record.step);
  // An analysis of the step comes later, from another attempt perhaps.
  if (record.kind != engine::HistoryKind::kAnalysis) {
    message.set_attempt(record.attempt);
    *message.mutable_time() = ToTimestamp(record.time);
  }
  switch (record.kind) {
    case engine::HistoryKind::kStep:
      message.mutable_report()->ParseFromString(record.payload);
      break;
    case engine::HistoryKind::kLayers:
      message.mutable_layers()->ParseFromString(record.payload);
      break;
    case engine::HistoryKind::kEval:
      message.mutable_eval()->ParseFromString(record.payload);
      break;
    case engine::HistoryKind::kAnalysis:
      message.mutable_analysis()->ParseFromString(record.payload);
      *message.mutable_analysis()->mutable_recorded_at() = ToTimestamp(record.time);
      message.mutable_analysis()->set_actor(record.actor);
      break;
  }
  return message;
}

v1::StoredExperiment ToStored(const engine::Experiment& experiment) {
  v1::StoredExperiment stored;
  FillWithoutSpec(experiment, *stored.mutable_experiment());
  stored.set_spec(experiment.spec);
  stored.set_request_id(experiment.request_id);
  stored.set_spec_digest(experiment.spec_digest);
  return stored;
}

absl::StatusOr<engine::Experiment> FromStored(const v1::StoredExperiment& stored) {
  const v1::Experiment& message = stored.experiment();
  const auto id = ExperimentId::Parse(message.id());
  if (!id) return absl::InvalidArgumentError(fmt::format("has id '{}', which is no experiment id", message.id()));
  return engine::Experiment{.id = *id,
                            .spec = message.has_spec() ? message.spec().SerializeAsString() : stored.spec(),
                            .spec_digest = stored.spec_digest(),
                            .request_id = stored.request_id(),
                            .owner = message.owner(),
                            .created_at = FromTimestamp(message.created_at()),
                            .num_runs = message.num_runs()};
}

v1::StoredRun FixedPart(const engine::Run& run) {
  v1::StoredRun stored;
  v1::StoredRunInfo& message = *stored.mutable_info();
  const engine::RunInfo& info = *run.info;
  message.mutable_axes()->insert(info.axes.begin(), info.axes.end());
  message.mutable_labels()->insert(info.labels.begin(), info.labels.end());
  message.mutable_worker_labels()->insert(info.worker_labels.begin(), info.worker_labels.end());
  message.set_owner(info.owner);
  message.set_spec(info.spec);
  message.set_world_size(info.world_size);
  message.mutable_smaller_worlds()->Add(info.smaller_worlds.begin(), info.smaller_worlds.end());
  message.set_on_preemption(static_cast<int>(info.on_preemption));
  message.set_on_loss(static_cast<int>(info.on_loss));
  message.set_retries_max(info.retries_max);
  message.set_steps(info.steps);
  *message.mutable_created_at() = ToTimestamp(info.created_at);
  return stored;
}

v1::StoredRun MovingPart(const engine::Run& run) {
  v1::StoredRun stored;
  PutMoving(run, *stored.mutable_run());
  stored.set_stop_intent(static_cast<int>(run.stop_intent));
  stored.set_resume_from_attempt(run.resume_from_attempt);
  stored.set_rendezvous(run.rendezvous);
  stored.set_requeue_request_id(run.requeue_request_id);
  *stored.mutable_queued_at() = ToTimestamp(run.queued_at);
  for (const engine::RankState rank : run.ranks) stored.add_ranks(static_cast<int>(rank));
  stored.set_outcome(static_cast<int>(run.outcome));
  stored.set_outcome_detail(run.outcome_detail);
  stored.set_resume_checkpoint(run.resume_checkpoint);
  return stored;
}

absl::StatusOr<engine::Run> FromStored(RunId id, const v1::StoredRun& stored) {
  const v1::Run& message = stored.run();
  engine::Run run;
  run.id = id;
  if (stored.has_info()) {
    NORMLAB_ASSIGN_OR_RETURN(run.info, ReadInfo(stored.info()));
  } else {
    run.info = ReadInfo(message);
  }
  run.priority = message.priority();
  NORMLAB_ASSIGN_OR_RETURN(run.state, ToEnum(message.state(), RunState::kQueued, RunState::kCancelled, "state"));
  run.attempt = message.attempt();
  run.failures = message.failures();
  run.resume_from_attempt = stored.resume_from_attempt();
  run.resume_checkpoint = stored.resume_checkpoint();
  run.is_held = message.held();
  NORMLAB_ASSIGN_OR_RETURN(run.cause, ToEnum(message.cause(), engine::Cause::kNone, engine::Cause::kFinished, "cause"));
  NORMLAB_ASSIGN_OR_RETURN(run.stop_intent, ToEnum(stored.stop_intent(), engine::StopIntent::kNone,
                                                   engine::StopIntent::kRequeue, "stop intent"));
  NORMLAB_ASSIGN_OR_RETURN(
      run.outcome, ToEnum(stored.outcome(), engine::Outcome::kNone, engine::Outcome::kFailedForGood, "outcome"));
  run.outcome_detail = stored.outcome_detail();
  for (const std::string& name : message.workers()) run.gang.push_back(WorkerId{name});
  for (const int rank : stored.ranks()) {
    NORMLAB_ASSIGN_OR_RETURN(const auto state,
                             ToEnum(rank, engine::RankState::kHeld, engine::RankState::kEnded, "rank state"));
    run.ranks.push_back(state);
  }
  if (run.ranks.size() != run.gang.size()) {
    return absl::InvalidArgumentError(
        fmt::format("has {} workers but states of {} ranks", run.gang.size(), run.ranks.size()));
  }
  run.rendezvous = stored.rendezvous();
  run.reason = message.reason();
  run.queued_at = FromTimestamp(stored.queued_at());
  run.started_at = ReadTime(message.has_started_at(), message.started_at());
  run.ended_at = ReadTime(message.has_ended_at(), message.ended_at());
  run.not_before = ReadTime(message.has_not_before(), message.not_before());
  run.requeue_request_id = stored.requeue_request_id();
  run.progress = ReadProgress(message.progress());
  if (message.has_environment()) run.environment = ReadEnvironment(message.environment());
  run.revision = message.revision();
  return run;
}

}  // namespace normlab::store
