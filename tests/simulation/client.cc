#include "tests/simulation/client.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "coordinator/store/convert.h"

namespace normlab::simulation {
namespace {

using engine::RunState;

constexpr int kTriesMax = 6;

engine::NewRun DrawRun(Dice& dice, const UserOptions& options) {
  v1::RunSpec spec;
  spec.set_retries_max(dice.Below(5));
  spec.mutable_train()->set_steps(dice.Chance(0.7) ? dice.Between(2, 12) : dice.Between(12, 60));
  spec.mutable_train()->set_batch_size(12);
  spec.mutable_train()->set_micro_batch_size(1);
  v1::ResourceSpec& resources = *spec.mutable_resources();
  int world_size_max = options.world_size_max;
  if (options.labelled_workers > 0 && dice.Chance(0.3)) {
    (*resources.mutable_worker_labels())["gpu"] = "h100";
    world_size_max = std::min(world_size_max, options.labelled_workers);
  }
  resources.set_workers(dice.Chance(0.4) ? 1 : dice.Between(1, world_size_max));
  if (resources.workers() > 1 && dice.Chance(0.3)) resources.set_workers_min(1);
  const char* const kPolicies[] = {"front", "back", "never"};
  resources.set_on_preemption(kPolicies[dice.Below(3)]);
  resources.set_on_loss(kPolicies[dice.Chance(0.8) ? 0 : dice.Below(3)]);
  engine::NewRun run = {.spec = spec.SerializeAsString(),
                        .world_size = resources.workers(),
                        .smaller_worlds = store::SmallerWorlds(spec),
                        .on_preemption = store::ToRequeuePolicy(resources.on_preemption()),
                        .on_loss = store::ToRequeuePolicy(resources.on_loss()),
                        .retries_max = spec.retries_max(),
                        .steps = spec.train().steps()};
  run.worker_labels.insert(resources.worker_labels().begin(), resources.worker_labels().end());
  return run;
}

/// What the reply says that was done, and what of it is to be seen in the state that it came from.
std::vector<History::Done> ToDone(const History::Operation& operation, const engine::Reply& reply,
                                  const engine::State& state) {
  std::vector<History::Done> done;
  const auto* changed = std::get_if<engine::RunsChanged>(&reply);
  if (changed == nullptr) return done;
  for (const engine::RunChange& change : changed->changes) {
    const engine::Run& run = state.runs.at(change.run);
    History::Done& item = done.emplace_back(History::Done{change.run, change.after, run.attempt, false});
    switch (operation.kind) {
      case History::Kind::kRequeue:
        item.has_changed = engine::IsTerminal(change.before) && change.after == RunState::kQueued;
        // It may have been placed in the same breath.
        if (engine::IsLive(run.state)) --item.attempt;
        break;
      case History::Kind::kHold:
        item.has_changed = run.state == RunState::kQueued && run.is_held;
        break;
      case History::Kind::kPriority:
        item.has_changed = run.state == RunState::kQueued && run.priority == operation.priority;
        break;
      default:
        item.has_changed = change.before != change.after;
    }
  }
  return done;
}

}  // namespace

struct Client::Call {
  size_t number = 0;
  engine::Command command;
  History::Operation operation;
  History::Token token;  // While it may be sent again.
  int num_runs = 0;      // Of a create.
  int tries = 0;
  bool is_over = false;
};

Client::Client(Timeline& timeline, Dice dice, Observer& observer, History& history, Coordinator& coordinator,
               std::string name, const UserOptions& options, const FaultMix& mix)
    : timeline_(timeline),
      dice_(dice),
      observer_(observer),
      history_(history),
      coordinator_(coordinator),
      name_(std::move(name)),
      options_(options),
      loss_(mix.request_loss),
      copies_(mix.request_copies),
      delay_max_(mix.delay_max) {}

void Client::Begin(absl::Time until) {
  until_ = until;
  Submit();
}

void Client::Next() {
  is_waiting_ = false;
  if (timeline_.now() >= until_) return;
  timeline_.After(dice_.Between(absl::Milliseconds(100), absl::Seconds(4)), [this] {
    if (timeline_.now() >= until_) return;
    const double choice = dice_.Real();
    if (choice < 0.15 && static_cast<int>(history_.known_runs().size()) < options_.runs_max) {
      Submit();
    } else if (choice < 0.6 && !history_.known_runs().empty()) {
      Change();
    } else {
      Look();
    }
  });
}

void Client::Submit() {
  engine::CreateExperiment create = {.request_id = fmt::format("{}-{}", name_, ++num_requests_),
                                     .owner = name_,
                                     .spec_digest = "digest",
                                     .priority = dice_.Below(3)};
  const int num_runs = dice_.Between(1, 4);
  for (int i = 0; i < num_runs; ++i) create.runs.push_back(DrawRun(dice_, options_));
  const History::Operation operation = {
      .kind = History::Kind::kCreate, .request_id = create.request_id, .priority = create.priority};
  Start(operation, std::move(create));
}

void Client::Change() {
  const auto& known = history_.known_runs();
  engine::Selector selector;
  const int count = dice_.Chance(0.8) ? 1 : 3;
  for (int i = 0; i < count; ++i) {
    const RunId run = known[static_cast<size_t>(dice_.Below(static_cast<int>(known.size())))];
    if (std::find(selector.runs.begin(), selector.runs.end(), run) == selector.runs.end()) selector.runs.push_back(run);
  }
  History::Operation operation = {.runs = selector.runs};
  const double choice = dice_.Real();
  if (choice < 0.25) {
    operation.kind = History::Kind::kCancel;
    return Start(operation, engine::CancelRuns{.selector = selector, .actor = name_});
  }
  if (choice < 0.6) {
    engine::RequeueRuns requeue = {.selector = selector,
                                   .from_scratch = dice_.Chance(0.3),
                                   .actor = name_,
                                   .request_id = fmt::format("{}-{}", name_, ++num_requests_)};
    if (dice_.Chance(0.5)) requeue.priority = dice_.Below(5);
    operation.kind = History::Kind::kRequeue;
    operation.request_id = requeue.request_id;
    operation.sets_priority = requeue.priority.has_value();
    operation.priority = requeue.priority.value_or(0);
    return Start(operation, std::move(requeue));
  }
  engine::UpdateRuns update = {.selector = selector, .actor = name_};
  if (choice < 0.8) {
    update.held = dice_.Chance(0.6);
    operation.kind = *update.held ? History::Kind::kHold : History::Kind::kRelease;
  } else {
    operation.kind = History::Kind::kPriority;
    operation.sets_priority = true;
    operation.priority = dice_.Below(100);
    update.priority = operation.priority;
  }
  Start(operation, std::move(update));
}

void Client::Start(History::Operation operation, engine::Command command) {
  is_waiting_ = true;
  auto call = std::make_shared<Call>();
  if (const auto* create = std::get_if<engine::CreateExperiment>(&command)) {
    call->num_runs = static_cast<int>(create->runs.size());
  }
  call->operation = operation;
  call->command = std::move(command);
  std::tie(call->number, call->token) = history_.Begin(std::move(operation));
  Send(call);
}

void Client::Send(const CallRef& call) {
  if (++call->tries > kTriesMax) {
    call->is_over = true;
    call->token.reset();
    ++observer_.coverage.unanswered;
    return Next();
  }
  auto* const create = std::get_if<engine::CreateExperiment>(&call->command);
  if (observer_.plant == Plant::kRequestIdForgotten && create != nullptr) create->request_id += "'";
  if (!dice_.Chance(loss_)) SendCopy(call);
  if (dice_.Chance(copies_)) SendCopy(call);
  timeline_.After(dice_.Between(absl::Seconds(2), absl::Seconds(5)), [this, call, tries = call->tries] {
    if (!call->is_over && call->tries == tries) Send(call);
  });
}

void Client::SendCopy(const CallRef& call) {
  timeline_.After(Delay(), [this, call, token = call->token] {
    if (!coordinator_.is_up()) return;
    coordinator_.Call(call->command,
                      [this, call, token](const absl::StatusOr<engine::Reply>& reply,
                                          const service::View* view) -> std::function<void()> {
                        std::vector<History::Done> done;
                        if (reply.ok()) done = ToDone(call->operation, *reply, view->state);
                        const int64_t revision = view == nullptr ? 0 : view->state.revision;
                        return [this, call, token, reply, done = std::move(done), revision] {
                          if (dice_.Chance(loss_)) return;
                          timeline_.After(
                              Delay(), [this, call, reply, done, revision] { OnAnswer(call, reply, done, revision); });
                        };
                      });
  });
}

void Client::OnAnswer(const CallRef& call, const absl::StatusOr<engine::Reply>& reply, std::vector<History::Done> done,
                      int64_t revision) {
  if (call->is_over) return;
  if (absl::IsUnavailable(reply.status())) {
    timeline_.After(absl::Milliseconds(500), [this, call, tries = call->tries] {
      if (!call->is_over && call->tries == tries) Send(call);
    });
    return;
  }
  call->is_over = true;
  if (reply.ok()) {
    observer_.Trace("{}: operation {} acknowledged at revision {}", name_, call->number, revision);
    if (const auto* created = std::get_if<engine::ExperimentCreated>(&*reply)) {
      history_.AcknowledgeCreate(call->number, created->id, call->num_runs, call->operation.priority, revision);
    } else {
      history_.Acknowledge(call->number, std::move(done), revision);
    }
  }
  call->token.reset();
  Next();
}

void Client::Look() {
  const History::Read read = history_.BeginRead();
  timeline_.After(Delay(), [this, read] {
    if (!coordinator_.is_up()) return;
    coordinator_.Read([this, read](const absl::Status& status, const service::View* view) -> std::function<void()> {
      if (!status.ok()) return nullptr;
      std::vector<History::Seen> seen;
      for (const auto& [id, run] : view->state.runs) seen.push_back(See(run));
      return [this, read, seen = std::move(seen), revision = view->state.revision] {
        timeline_.After(Delay(), [this, read, seen, revision] { history_.EndRead(read, revision, seen); });
      };
    });
  });
  Next();
}

}  // namespace normlab::simulation
