#include "coordinator/service/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/spec.h"
#include "common/status.h"
#include "coordinator/service/limits.h"
#include "coordinator/store/convert.h"

namespace normlab::service {
namespace {

using store::FromTimestamp;
using store::ToMap;
using store::ToTimestamp;

google::protobuf::Duration ToDuration(absl::Duration duration) {
  google::protobuf::Duration message;
  absl::Duration rest;
  message.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &rest));
  message.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  return message;
}

v1::AttemptRef ToMessage(const engine::AttemptRef& ref) {
  v1::AttemptRef message;
  message.set_run_id(ref.run.ToString());
  message.set_attempt(ref.attempt);
  message.set_rank(ref.rank);
  return message;
}

absl::StatusOr<engine::AttemptRef> ToRef(const std::string& field, const v1::AttemptRef& message) {
  NORMLAB_ASSIGN_OR_RETURN(const RunId run, ParseRunId(field + ".run_id", message.run_id()));
  return engine::AttemptRef{.run = run, .attempt = message.attempt(), .rank = message.rank()};
}

absl::Status CheckLabels(const std::string& field, const google::protobuf::Map<std::string, std::string>& labels) {
  if (labels.size() > kLabelsMax) {
    return absl::ResourceExhaustedError(
        fmt::format("{}: has {} labels, at most {} are allowed", field, labels.size(), kLabelsMax));
  }
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > kLabelBytesMax || value.size() > kLabelBytesMax) {
      return absl::InvalidArgumentError(
          fmt::format("{}: a label has a key of {} bytes and a value of {} bytes; keys have 1 to {}, values at most {}",
                      field, key.size(), value.size(), kLabelBytesMax, kLabelBytesMax));
    }
  }
  return absl::OkStatus();
}

/// Who asks, as events show it. Until there are tokens, the client's word.
absl::StatusOr<std::string> ToActor(const std::string& actor) {
  NORMLAB_RETURN_IF_ERROR(CheckName("actor", actor));
  return "user:" + actor;
}

engine::NewRun ToNewRun(ExpandedRun expanded) {
  const v1::RunSpec& spec = expanded.spec;
  return {.spec = spec.SerializeAsString(),
          .axes = std::move(expanded.axes),
          .worker_labels = ToMap(spec.resources().worker_labels()),
          .world_size = spec.resources().workers(),
          .smaller_worlds = store::SmallerWorlds(spec),
          .on_preemption = store::ToRequeuePolicy(spec.resources().on_preemption()),
          .on_loss = store::ToRequeuePolicy(spec.resources().on_loss()),
          .retries_max = spec.retries_max(),
          .steps = spec.train().steps()};
}

absl::Status RefuseEmpty(const engine::Selector& selector, const char* verb) {
  if (selector.IsEmpty()) {
    return absl::InvalidArgumentError(
        fmt::format("selector: is empty; say which runs to {} by run, experiment, label, state, owner or time", verb));
  }
  return absl::OkStatus();
}

/// Nullopt if the request gives none.
template <typename Request>
absl::StatusOr<std::optional<int>> ToPriority(const Request& request) {
  if (!request.has_priority()) return std::optional<int>();
  if (request.priority() < -1000 || request.priority() > 1000) {
    return absl::InvalidArgumentError(fmt::format("priority: is {}, must be from -1000 to 1000", request.priority()));
  }
  return std::optional<int>(request.priority());
}

absl::Status CheckDistances(const std::string& field, const google::protobuf::RepeatedField<float>& distances,
                            int distances_max) {
  if (distances.size() > distances_max) {
    return absl::InvalidArgumentError(
        fmt::format("{}: has {} distances, at most {} are possible", field, distances.size(), distances_max));
  }
  for (const float distance : distances) {
    if (!(distance >= 0 && distance <= 1)) {
      return absl::InvalidArgumentError(fmt::format("{}: has {}, must be from 0 to 1", field, distance));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAnalysis(const v1::Analysis& analysis) {
  if (const size_t bytes = analysis.ByteSizeLong(); bytes > kAnalysisBytesMax) {
    return absl::ResourceExhaustedError(fmt::format(
        "analysis: has {} bytes, at most {} are stored; leave out angular_distance_last", bytes, kAnalysisBytesMax));
  }
  if (analysis.step() < 1) {
    return absl::InvalidArgumentError(fmt::format("analysis.step: is {}, must be at least 1", analysis.step()));
  }
  NORMLAB_RETURN_IF_ERROR(CheckText("analysis.checkpoint", analysis.checkpoint(), kLabelBytesMax));
  NORMLAB_RETURN_IF_ERROR(CheckText("analysis.dataset", analysis.dataset(), kReasonBytesMax));
  NORMLAB_RETURN_IF_ERROR(CheckText("analysis.build", analysis.build(), kLabelBytesMax));
  if (analysis.layers_size() == 0) return absl::InvalidArgumentError("analysis.layers: has none");
  for (int i = 0; i < analysis.layers_size(); ++i) {
    const v1::LayerAnalysis& layer = analysis.layers(i);
    const std::string field = fmt::format("analysis.layers[{}]", i);
    if (layer.layer() != i + 1) {
      return absl::InvalidArgumentError(
          fmt::format("{}.layer: is {}, must be {}: every layer once, in order", field, layer.layer(), i + 1));
    }
    const int distances_max = analysis.layers_size() - i;
    NORMLAB_RETURN_IF_ERROR(CheckDistances(field + ".angular_distance", layer.angular_distance(), distances_max));
    NORMLAB_RETURN_IF_ERROR(
        CheckDistances(field + ".angular_distance_last", layer.angular_distance_last(), distances_max));
  }
  return absl::OkStatus();
}

absl::StatusOr<engine::Report> ToReport(const v1::TrainerEvent& event) {
  switch (event.event_case()) {
    case v1::TrainerEvent::kRendezvousOpen:
      NORMLAB_RETURN_IF_ERROR(CheckName("report.event.rendezvous_open.address", event.rendezvous_open().address()));
      return engine::RendezvousOpen{.address = event.rendezvous_open().address()};
    case v1::TrainerEvent::kStarted: {
      v1::Started started = event.started();
      started.set_resumed_from(Cut(started.resumed_from(), kLabelBytesMax));
      started.set_device(Cut(started.device(), kLabelBytesMax));
      started.set_torch_version(Cut(started.torch_version(), kLabelBytesMax));
      return engine::RankStarted{.first_step = started.first_step(),
                                 .resumed_from = started.resumed_from(),
                                 .payload = started.SerializeAsString()};
    }
    case v1::TrainerEvent::kStep: {
      const v1::StepReport& step = event.step();
      return engine::StepReported{.step = step.step(),
                                  .loss = step.loss(),
                                  .lr = step.lr(),
                                  .tokens_per_second = step.tokens_per_second(),
                                  .tokens = step.tokens(),
                                  .payload = step.SerializeAsString()};
    }
    case v1::TrainerEvent::kLayers:
      return engine::LayersReported{.step = event.layers().step(), .payload = event.layers().SerializeAsString()};
    case v1::TrainerEvent::kEval: {
      const v1::EvalReport& eval = event.eval();
      return engine::EvalReported{
          .eval = {.step = eval.step(), .loss = eval.loss(), .perplexity = eval.perplexity(), .tokens = eval.tokens()},
          .payload = eval.SerializeAsString()};
    }
    case v1::TrainerEvent::kCheckpoint:
      return engine::CheckpointReported{.checkpoint = {.step = event.checkpoint().step(),
                                                       .name = Cut(event.checkpoint().name(), kLabelBytesMax),
                                                       .bytes = event.checkpoint().bytes()}};
    case v1::TrainerEvent::kLog: {
      v1::LogLine line = event.log();
      line.set_text(Cut(line.text(), kWordsBytesMax));
      return engine::LogReported{.payload = line.SerializeAsString()};
    }
    case v1::TrainerEvent::kFinished:
      return engine::TrainerFinished{.step = event.finished().step(), .diverged = event.finished().diverged()};
    case v1::TrainerEvent::kStopped:
      return engine::TrainerStopped{.step = event.stopped().step()};
    case v1::TrainerEvent::kFailed:
      return engine::TrainerFailed{.message = Cut(event.failed().message(), kWordsBytesMax),
                                   .step = event.failed().step(),
                                   .retryable = event.failed().retryable()};
    case v1::TrainerEvent::kEvaluating:  // Stays with the agent.
    case v1::TrainerEvent::EVENT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("report.event: has no event that this version knows");
}

engine::Report ToReport(const v1::TrainerExit& exit) {
  return engine::TrainerExited{.code = exit.has_code() ? std::optional(exit.code()) : std::nullopt,
                               .signal = exit.has_signal() ? std::optional(exit.signal()) : std::nullopt,
                               .detail = Cut(exit.detail(), kWordsBytesMax),
                               .was_stuck = exit.cause() == v1::CAUSE_TRAINER_STUCK};
}

struct ToCoordinatorMessage {
  v1::CoordinatorMessage message;

  void operator()(const engine::SendWelcome& welcome) {
    v1::Welcome* target = message.mutable_welcome();
    *target->mutable_lease() = ToDuration(welcome.lease);
    *target->mutable_heartbeat_interval() = ToDuration(welcome.heartbeat_interval);
    for (const engine::AttemptRef& ref : welcome.fenced) *target->add_fenced() = ToMessage(ref);
  }
  void operator()(const engine::SendLeaseRenewed&) { message.mutable_lease_renewed(); }
  void operator()(const engine::SendStart& start) {
    v1::StartAttempt* target = message.mutable_start();
    *target->mutable_attempt() = ToMessage(start.attempt);
    target->set_world_size(start.world_size);
    target->mutable_spec()->ParseFromString(start.spec);
    // A run that was stored before a field existed lacks it; what was done then is the field's default.
    FillDefaults(target->mutable_spec());
    target->set_experiment_id(start.attempt.run.experiment.ToString());
    target->set_resume_from_attempt(start.resume_from_attempt);
    target->set_rendezvous(start.rendezvous);
    target->set_resume_checkpoint(start.resume_checkpoint);
  }
  void operator()(const engine::SendStop& stop) {
    v1::StopAttempt* target = message.mutable_stop();
    *target->mutable_attempt() = ToMessage(stop.attempt);
    *target->mutable_grace() = ToDuration(stop.grace);
    target->set_reason(stop.reason);
  }
  void operator()(const engine::SendAck& ack) { message.mutable_ack()->set_sequence(ack.sequence); }
};

}  // namespace

absl::Status CheckName(const std::string& field, const std::string& value) {
  const bool is_printable = std::all_of(value.begin(), value.end(), [](char c) { return c > ' ' && c < 127; });
  if (value.empty() || value.size() > kIdBytesMax || !is_printable) {
    return absl::InvalidArgumentError(
        fmt::format("{}: must have 1 to {} printable ASCII characters without blanks, has {} bytes{}", field,
                    kIdBytesMax, value.size(), is_printable ? "" : " with others among them"));
  }
  return absl::OkStatus();
}

absl::Status CheckText(const std::string& field, const std::string& value, size_t bytes_max) {
  if (value.size() <= bytes_max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{}: has {} bytes, at most {} are allowed", field, value.size(), bytes_max));
}

std::string Cut(const std::string& text, size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  size_t end = bytes_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end);
}

absl::StatusOr<ExperimentId> ParseExperimentId(const std::string& field, const std::string& text) {
  if (const auto id = ExperimentId::Parse(text)) return *id;
  return absl::InvalidArgumentError(
      fmt::format("{}: '{}' is no experiment id; one looks like exp-0001", field, text.substr(0, kIdBytesMax)));
}

absl::StatusOr<RunId> ParseRunId(const std::string& field, const std::string& text) {
  if (const auto id = RunId::Parse(text)) return *id;
  return absl::InvalidArgumentError(
      fmt::format("{}: '{}' is no run id; one looks like exp-0001.03", field, text.substr(0, kIdBytesMax)));
}

absl::StatusOr<engine::Selector> ToSelector(const v1::RunSelector& message) {
  engine::Selector selector;
  if (message.run_ids_size() > kSelectorRunsMax) {
    return absl::ResourceExhaustedError(
        fmt::format("selector.run_ids: has {} runs, at most {} are allowed", message.run_ids_size(), kSelectorRunsMax));
  }
  for (int i = 0; i < message.run_ids_size(); ++i) {
    NORMLAB_ASSIGN_OR_RETURN(const RunId id, ParseRunId(fmt::format("selector.run_ids[{}]", i), message.run_ids(i)));
    selector.runs.push_back(id);
  }
  std::sort(selector.runs.begin(), selector.runs.end());
  selector.runs.erase(std::unique(selector.runs.begin(), selector.runs.end()), selector.runs.end());
  if (!message.experiment_id().empty()) {
    NORMLAB_ASSIGN_OR_RETURN(selector.experiment, ParseExperimentId("selector.experiment_id", message.experiment_id()));
  }
  NORMLAB_RETURN_IF_ERROR(CheckLabels("selector.labels", message.labels()));
  selector.labels = ToMap(message.labels());
  for (const int state : message.states()) {
    if (state < v1::QUEUED || state > v1::CANCELLED) {
      return absl::InvalidArgumentError(fmt::format("selector.states: {} is no state that this version knows", state));
    }
    selector.states.push_back(static_cast<engine::RunState>(state));
  }
  NORMLAB_RETURN_IF_ERROR(CheckText("selector.owner", message.owner(), kLabelBytesMax));
  selector.owner = message.owner();
  if (message.has_created_after()) selector.created_after = FromTimestamp(message.created_after());
  if (message.has_created_before()) selector.created_before = FromTimestamp(message.created_before());
  return selector;
}

absl::StatusOr<engine::CreateExperiment> ToCommand(const v1::CreateExperimentRequest& request) {
  NORMLAB_RETURN_IF_ERROR(CheckName("request_id", request.request_id()));
  NORMLAB_RETURN_IF_ERROR(CheckName("owner", request.owner()));
  NORMLAB_RETURN_IF_ERROR(CheckLabels("spec.labels", request.spec().labels()));
  NORMLAB_RETURN_IF_ERROR(ViolationsToStatus(ValidateExperiment(request.spec())));
  NORMLAB_ASSIGN_OR_RETURN(std::vector<ExpandedRun> expanded, ExpandMatrix(request.spec()));
  v1::ExperimentSpec spec = request.spec();
  FillDefaults(&spec);
  engine::CreateExperiment command{.request_id = request.request_id(),
                                   .owner = request.owner(),
                                   .spec = spec.SerializeAsString(),
                                   .spec_digest = SpecDigest(spec),
                                   .priority = spec.priority(),
                                   .labels = ToMap(spec.labels())};
  command.runs.reserve(expanded.size());
  for (ExpandedRun& run : expanded) command.runs.push_back(ToNewRun(std::move(run)));
  return command;
}

absl::StatusOr<engine::CancelRuns> ToCommand(const v1::CancelRunsRequest& request) {
  engine::CancelRuns command;
  NORMLAB_ASSIGN_OR_RETURN(command.selector, ToSelector(request.selector()));
  NORMLAB_RETURN_IF_ERROR(RefuseEmpty(command.selector, "cancel"));
  NORMLAB_ASSIGN_OR_RETURN(command.actor, ToActor(request.actor()));
  NORMLAB_RETURN_IF_ERROR(CheckText("reason", request.reason(), kReasonBytesMax));
  command.reason = request.reason();
  return command;
}

absl::StatusOr<engine::RequeueRuns> ToCommand(const v1::RequeueRunsRequest& request) {
  engine::RequeueRuns command{.from_scratch = request.from_scratch()};
  NORMLAB_ASSIGN_OR_RETURN(command.selector, ToSelector(request.selector()));
  NORMLAB_RETURN_IF_ERROR(RefuseEmpty(command.selector, "requeue"));
  NORMLAB_ASSIGN_OR_RETURN(command.actor, ToActor(request.actor()));
  NORMLAB_RETURN_IF_ERROR(CheckText("reason", request.reason(), kReasonBytesMax));
  NORMLAB_RETURN_IF_ERROR(CheckText("request_id", request.request_id(), kIdBytesMax));
  command.reason = request.reason();
  command.request_id = request.request_id();
  if (!request.checkpoint().empty()) NORMLAB_RETURN_IF_ERROR(CheckName("checkpoint", request.checkpoint()));
  command.checkpoint = request.checkpoint();
  NORMLAB_ASSIGN_OR_RETURN(command.priority, ToPriority(request));
  return command;
}

absl::StatusOr<engine::UpdateRuns> ToCommand(const v1::UpdateRunsRequest& request) {
  engine::UpdateRuns command;
  NORMLAB_ASSIGN_OR_RETURN(command.selector, ToSelector(request.selector()));
  NORMLAB_RETURN_IF_ERROR(RefuseEmpty(command.selector, "update"));
  NORMLAB_ASSIGN_OR_RETURN(command.actor, ToActor(request.actor()));
  NORMLAB_RETURN_IF_ERROR(CheckText("reason", request.reason(), kReasonBytesMax));
  command.reason = request.reason();
  if (!request.has_held() && !request.has_priority()) {
    return absl::InvalidArgumentError("nothing to change: set held, priority or both");
  }
  if (request.has_held()) command.held = request.held();
  NORMLAB_ASSIGN_OR_RETURN(command.priority, ToPriority(request));
  return command;
}

absl::StatusOr<engine::RecordAnalysis> ToCommand(const v1::RecordAnalysisRequest& request) {
  engine::RecordAnalysis command;
  NORMLAB_ASSIGN_OR_RETURN(const RunId run, ParseRunId("run_id", request.run_id()));
  command.selector.runs = {run};
  NORMLAB_ASSIGN_OR_RETURN(command.actor, ToActor(request.actor()));
  v1::Analysis analysis = request.analysis();
  NORMLAB_RETURN_IF_ERROR(CheckAnalysis(analysis));
  // The coordinator's to say.
  analysis.clear_recorded_at();
  analysis.clear_actor();
  command.step = analysis.step();
  command.attempt = analysis.attempt();
  command.payload = analysis.SerializeAsString();
  return command;
}

absl::StatusOr<engine::WorkerHello> ToCommand(const v1::WorkerHello& hello) {
  NORMLAB_RETURN_IF_ERROR(CheckName("hello.worker_id", hello.worker_id()));
  NORMLAB_RETURN_IF_ERROR(CheckName("hello.incarnation", hello.incarnation()));
  const v1::WorkerInfo& info = hello.info();
  NORMLAB_RETURN_IF_ERROR(CheckLabels("hello.info.labels", info.labels()));
  NORMLAB_RETURN_IF_ERROR(CheckText("hello.info.host", info.host(), kLabelBytesMax));
  NORMLAB_RETURN_IF_ERROR(CheckText("hello.info.device", info.device(), kLabelBytesMax));
  NORMLAB_RETURN_IF_ERROR(CheckText("hello.info.metrics_address", info.metrics_address(), kLabelBytesMax));
  NORMLAB_RETURN_IF_ERROR(CheckText("hello.info.build", info.build(), kLabelBytesMax));
  if (hello.running_size() > kHelloRunningMax) {
    return absl::ResourceExhaustedError(fmt::format("hello.running: names {} attempts, at most {} are allowed",
                                                    hello.running_size(), kHelloRunningMax));
  }
  engine::WorkerHello command{.worker = {hello.worker_id()},
                              .incarnation = hello.incarnation(),
                              .info = {.host = info.host(),
                                       .device = info.device(),
                                       .memory_bytes = info.memory_bytes(),
                                       .threads = info.threads(),
                                       .labels = ToMap(info.labels()),
                                       .metrics_address = info.metrics_address(),
                                       .build = info.build(),
                                       .device_lacks = Cut(info.device_lacks(), kLabelBytesMax)}};
  for (const v1::AttemptRef& running : hello.running()) {
    NORMLAB_ASSIGN_OR_RETURN(const engine::AttemptRef ref, ToRef("hello.running", running));
    command.running.push_back(ref);
  }
  return command;
}

absl::StatusOr<engine::WorkerReport> ToCommand(const v1::AttemptReport& report, const WorkerId& worker,
                                               const std::string& incarnation) {
  engine::WorkerReport command{.worker = worker,
                               .incarnation = incarnation,
                               .sequence = report.sequence(),
                               .time = FromTimestamp(report.time())};
  if (report.sequence() < 1) {
    return absl::InvalidArgumentError(fmt::format("report.sequence: is {}, must be at least 1", report.sequence()));
  }
  NORMLAB_ASSIGN_OR_RETURN(command.attempt, ToRef("report.attempt", report.attempt()));
  switch (report.report_case()) {
    case v1::AttemptReport::kEvent: {
      NORMLAB_ASSIGN_OR_RETURN(command.report, ToReport(report.event()));
      return command;
    }
    case v1::AttemptReport::kExit:
      command.report = ToReport(report.exit());
      return command;
    case v1::AttemptReport::REPORT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("report: has neither an event nor an exit");
}

void FillFromState(const engine::Experiment& experiment, const View& view, v1::Experiment& message) {
  store::FillWithoutSpec(experiment, message);
  const RunTally::Counts& counts = view.tally.OfExperiment(experiment.id);
  for (size_t state = 1; state < counts.size(); ++state) {
    if (counts[state] == 0) continue;
    const std::string name(engine::Name(static_cast<engine::RunState>(state)));
    (*message.mutable_runs_by_state())[name] = static_cast<int32_t>(counts[state]);
  }
}

v1::Experiment ToMessage(const engine::Experiment& experiment, const View& view) {
  v1::Experiment message;
  message.mutable_spec()->ParseFromString(experiment.spec);
  FillFromState(experiment, view, message);
  return message;
}

v1::Run ToListedRun(const engine::Run& run) {
  v1::Run message = store::ToProto(run);
  message.mutable_progress()->clear_layers();
  return message;
}

v1::ChangeRunsResponse ToMessage(const engine::RunsChanged& changed) {
  v1::ChangeRunsResponse message;
  for (const engine::RunChange& change : changed.changes) {
    auto* target = message.add_changes();
    target->set_run_id(change.run.ToString());
    target->set_before(static_cast<v1::RunState>(change.before));
    target->set_after(static_cast<v1::RunState>(change.after));
    target->set_note(change.note);
  }
  return message;
}

v1::CoordinatorMessage ToMessage(const engine::WorkerCommand& command) {
  ToCoordinatorMessage convert;
  std::visit(convert, command);
  return std::move(convert.message);
}

v1::Worker::State StateOf(const engine::Worker& worker) {
  if (!worker.has_lease) return v1::Worker::LOST;
  if (!worker.is_connected) return v1::Worker::UNREACHABLE;
  return worker.attempt ? v1::Worker::BUSY : v1::Worker::IDLE;
}

v1::Worker ToMessage(const engine::Worker& worker) {
  v1::Worker message;
  message.set_id(worker.id.name);
  v1::WorkerInfo* info = message.mutable_info();
  info->set_host(worker.info.host);
  info->set_device(worker.info.device);
  info->set_memory_bytes(worker.info.memory_bytes);
  info->set_threads(worker.info.threads);
  info->mutable_labels()->insert(worker.info.labels.begin(), worker.info.labels.end());
  info->set_metrics_address(worker.info.metrics_address);
  info->set_build(worker.info.build);
  info->set_device_lacks(worker.info.device_lacks);
  message.set_state(StateOf(worker));
  if (worker.has_lease) *message.mutable_lease_expires_at() = ToTimestamp(worker.lease_expires_at);
  if (worker.attempt) *message.mutable_attempt() = ToMessage(*worker.attempt);
  message.set_cordoned(worker.is_cordoned);
  return message;
}

}  // namespace normlab::service
