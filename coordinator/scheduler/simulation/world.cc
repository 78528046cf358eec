#include "coordinator/scheduler/simulation/world.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/engine/testing/script.h"
#include "coordinator/engine/testing/transcript.h"

namespace normlab::simulation {
namespace {

constexpr int kNumAgents = 5;

engine::WorkerInfo InfoOf(int agent) {
  engine::WorkerInfo info = {.host = fmt::format("host-{}", agent / 2)};
  if (agent < 3) info.labels = {{"gpu", "h100"}};
  return info;
}

}  // namespace

World::World(uint64_t seed)
    : dice_(seed),
      options_{.lease = absl::Seconds(10),
               .heartbeat_interval = absl::Seconds(1),
               .stop_grace = absl::Seconds(3),
               .backoff_first = absl::Seconds(1),
               .backoff_max = absl::Seconds(4),
               .policy = {.usage_half_life = absl::Seconds(60),
                          .aging = absl::Seconds(30),
                          .run_time_min = absl::Seconds(3),
                          .workers_per_user_max = 4}},
      now_(absl::UnixEpoch() + absl::Hours(1)) {
  for (int i = 0; i < kNumAgents; ++i) agents_.emplace_back(fmt::format("w{}", i), InfoOf(i));
  Submit(4);
}

bool World::Apply(const engine::Command& command) {
  const engine::State before = state_;
  engine::Changes changes;
  const auto reply = engine::Apply(options_, state_, command, now_, changes);
  const bool was_refused = !reply.ok();
  for (const auto& [id, run] : before.runs) {
    const engine::RunState now = state_.runs.at(id).state;
    if (now != run.state) moves_.emplace(run.state, now);
  }
  if (broken_.empty()) broken_ = invariants_.Check(before, command, state_, changes, options_.policy);
  if (broken_.empty() && was_refused && (changes.HasDurablePart() || state_.revision != before.revision)) {
    broken_ = fmt::format("a refused command changed something: {}", reply.status().ToString());
  }
  if (!is_crashing_) Route(changes);
  return reply.ok();
}

void World::Route(const engine::Changes& changes) {
  for (const engine::Outgoing& message : changes.messages) {
    const auto agent =
        std::find_if(agents_.begin(), agents_.end(), [&](const Agent& known) { return known.id() == message.worker; });
    if (!agent->is_connected() || agent->incarnation() != message.incarnation) continue;
    downlinks_[message.worker].push_back(message.command);
  }
}

void World::Submit(int num_runs) {
  engine::CreateExperiment create = {.request_id = fmt::format("request-{}", ++num_requests_),
                                     .owner = dice_.Chance(0.5) ? "ada" : "bob",
                                     .priority = dice_.Below(3)};
  for (int i = 0; i < num_runs; ++i) {
    engine::NewRun run = {.world_size = 1 + dice_.Below(3), .retries_max = dice_.Below(4), .steps = 6};
    if (dice_.Chance(0.3)) run.worker_labels = {{"gpu", "h100"}};
    for (int smaller = run.world_size - 1; smaller > 0 && dice_.Chance(0.3); --smaller) {
      run.smaller_worlds.push_back(smaller);
    }
    run.on_preemption = static_cast<engine::RequeuePolicy>(dice_.Below(3));
    if (dice_.Chance(0.2)) run.on_loss = static_cast<engine::RequeuePolicy>(dice_.Below(3));
    create.runs.push_back(run);
  }
  Apply(create);
  Apply(create);  // The answer was lost and the client asks again.
}

/// Both directions of one stream: in order, each message after any delay.
void World::Exchange(Agent& agent) {
  std::deque<engine::WorkerCommand>& down = downlinks_[agent.id()];
  while (!down.empty() && dice_.Chance(0.8)) {
    const engine::WorkerCommand message = std::move(down.front());
    down.pop_front();
    agent.Receive(message, fabric_);
  }
  while (!agent.uplink.empty() && dice_.Chance(0.8)) {
    const engine::Command command = std::move(agent.uplink.front());
    agent.uplink.pop_front();
    if (Apply(command)) continue;
    CutStream(agent);  // The service closes a stream whose message is refused.
    return;
  }
}

void World::CutStream(Agent& agent) {
  if (!agent.is_connected()) return;
  downlinks_[agent.id()].clear();
  for (engine::Command& command : agent.Cut()) {
    if (dice_.Chance(0.3)) break;
    late_.push_back(std::move(command));
  }
  const engine::WorkerDisconnected disconnected = {agent.id(), agent.incarnation()};
  if (dice_.Chance(0.2)) {
    late_.push_back(disconnected);
  } else {
    Apply(disconnected);
  }
}

/// What old streams still deliver, mixed with what the new ones do. A hello opens a stream and cannot come late.
void World::DeliverLate() {
  while (!late_.empty() && dice_.Chance(0.6)) {
    const size_t index = static_cast<size_t>(dice_.Below(static_cast<int>(std::min<size_t>(late_.size(), 3))));
    const engine::Command command = late_[index];
    late_.erase(late_.begin() + static_cast<ptrdiff_t>(index));
    const bool opens_stream = std::holds_alternative<engine::WorkerHello>(command);
    // A report that overtakes an earlier one would make the earlier look repeated: streams keep their order.
    const bool is_report = std::holds_alternative<engine::WorkerReport>(command);
    if (!opens_stream && (!is_report || index == 0)) Apply(command);
  }
}

void World::TroubleAgent(Agent& agent) {
  if (dice_.Chance(0.03)) CutStream(agent);
  if (dice_.Chance(0.01)) agent.Freeze(dice_.Below(40));
  if (dice_.Chance(0.01) && !agent.is_draining()) agent.Drain();
  const bool is_drained = agent.is_draining() && agent.num_trainers() == 0 && dice_.Chance(0.2);
  if (dice_.Chance(0.01) || is_drained) {
    CutStream(agent);
    agent.Restart(fabric_);
  }
}

void World::TroubleCoordinator() {
  is_crashing_ = true;
  for (Agent& agent : agents_) Exchange(agent);
  is_crashing_ = false;
  state_ = engine::AfterRestart(std::move(state_), now_, options_.lease);
  late_.clear();
  for (Agent& agent : agents_) {
    downlinks_[agent.id()].clear();
    agent.Cut();
  }
}

void World::Meddle() {
  const RunId run = std::next(state_.runs.begin(), dice_.Below(static_cast<int>(state_.runs.size())))->first;
  const WorkerId worker = agents_[static_cast<size_t>(dice_.Below(kNumAgents))].id();
  switch (dice_.Below(8)) {
    case 0:
      Apply(engine::CancelRuns{{.runs = {run}}, "bob", "meddling"});
      break;
    case 1:
    case 2: {
      const engine::RequeueRuns requeue = {.selector = {.runs = {run}},
                                           .from_scratch = dice_.Chance(0.5),
                                           .priority = dice_.Below(3),
                                           .request_id = fmt::format("request-{}", ++num_requests_)};
      Apply(requeue);
      Apply(requeue);
      break;
    }
    case 3:
      Apply(engine::CordonWorker{worker, true, "bob"});
      break;
    case 4:
      Apply(engine::CordonWorker{worker, false, "bob"});
      break;
    case 5:
      if (state_.runs.size() < 10) Submit(1);
      break;
    case 6:
    case 7: {
      engine::UpdateRuns update = {.selector = {.runs = {run}}, .actor = "bob"};
      if (dice_.Chance(0.5)) update.held = dice_.Chance(0.5);
      if (dice_.Chance(0.5)) update.priority = dice_.Below(3);
      Apply(update);
      Apply(update);
      break;
    }
  }
}

void World::Place() {
  const scheduler::Decision decision = scheduler::Schedule(state_, options_.policy, now_);
  for (const scheduler::Preemption& preemption : decision.preemptions) {
    if (!Apply(engine::PreemptRun{preemption.run, preemption.beneficiary}) && broken_.empty()) {
      broken_ =
          fmt::format("the engine refuses a preemption of {} made from the same state", preemption.run.ToString());
    }
  }
  for (const scheduler::Placement& placement : decision.placements) {
    if (!Apply(engine::PlaceRun{placement.run, placement.gang}) && broken_.empty()) {
      broken_ = fmt::format("the engine refuses a placement of {} made from the same state", placement.run.ToString());
    }
  }
}

void World::Round(double crash_probability) {
  now_ += absl::Milliseconds(500);
  for (Agent& agent : agents_) {
    agent.Step(now_, crash_probability, fabric_, dice_);
    Exchange(agent);
  }
  DeliverLate();
  Apply(engine::Tick());
  const std::optional<absl::Time> next = engine::NextDeadline(state_);
  if (broken_.empty() && next && *next <= now_) broken_ = "a tick left something that was due";
  Place();
  for (const Agent& agent : agents_) {
    if (agent.num_trainers() > 1 && broken_.empty()) broken_ = fmt::format("{} runs two ranks", agent.id().name);
  }
}

void World::RoundWithFaults() {
  for (Agent& agent : agents_) TroubleAgent(agent);
  if (dice_.Chance(0.02)) TroubleCoordinator();
  if (dice_.Chance(0.15)) Meddle();
  Round(0.01);
}

void World::CalmRound() { Round(0); }

void World::Mend() {
  engine::UpdateRuns release = {.selector = {.states = {engine::RunState::kQueued}}, .held = false, .actor = "bob"};
  Apply(release);
  for (Agent& agent : agents_) {
    agent.Freeze(0);
    if (agent.is_draining()) {
      CutStream(agent);
      agent.Restart(fabric_);
    }
    Apply(engine::CordonWorker{agent.id(), false, "bob"});
  }
}

bool World::IsSettled() const {
  const bool all_terminal = std::all_of(state_.runs.begin(), state_.runs.end(),
                                        [](const auto& entry) { return engine::IsTerminal(entry.second.state); });
  const bool all_free = std::all_of(state_.workers.begin(), state_.workers.end(),
                                    [](const auto& entry) { return !entry.second.attempt; });
  return all_terminal && all_free;
}

std::string World::Text() const { return engine::RunsText(state_, absl::UnixEpoch()) + engine::WorkersText(state_); }

}  // namespace normlab::simulation
