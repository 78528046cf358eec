#include "coordinator/loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "common/log.h"
#include "common/status.h"
#include "coordinator/scheduler/scheduler.h"

namespace normlab {
namespace {

/// Items of one tick: bounds how long a heartbeat waits for the batch before it.
constexpr size_t kTickItemsMax = 4096;
/// While runs wait, the scheduler looks at them at least this often.
constexpr absl::Duration kPassInterval = absl::Seconds(10);
/// Items that wait; past it commands are refused, because their clients would have given up before their turn.
constexpr size_t kQueueMax = 65'536;

/// Whether `command` can make a placement possible. Most traffic is heartbeats and progress, which cannot.
bool MayFreeOrQueue(const engine::Command& command) {
  if (std::holds_alternative<engine::WorkerHeartbeat>(command)) return false;
  const auto* report = std::get_if<engine::WorkerReport>(&command);
  if (report == nullptr) return true;
  return std::holds_alternative<engine::TrainerExited>(report->report) ||
         std::holds_alternative<engine::TrainerFailed>(report->report) ||
         std::holds_alternative<engine::TrainerStopped>(report->report) ||
         std::holds_alternative<engine::TrainerFinished>(report->report);
}

size_t CountRecords(const engine::Changes& changes) {
  return changes.experiments.size() + changes.runs.size() + changes.workers.size() + changes.events.size() +
         changes.history.size() + changes.logs.size() + changes.truncations.size();
}

int64_t CountLeases(const engine::State& state) {
  return std::count_if(state.workers.begin(), state.workers.end(),
                       [](const auto& entry) { return entry.second.has_lease; });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Loop>> Loop::Create(const engine::Options& options, store::Store& store,
                                                   const Clock& clock, Metrics& metrics) {
  NORMLAB_ASSIGN_OR_RETURN(engine::State state, store.Load());
  return std::unique_ptr<Loop>(new Loop(options, store, clock, metrics, std::move(state)));
}

Loop::Loop(const engine::Options& options, store::Store& store, const Clock& clock, Metrics& metrics,
           engine::State state)
    : options_(options),
      store_(store),
      clock_(clock),
      metrics_(metrics),
      wall_minus_steady_(clock.Now() - clock.SteadyNow()),
      state_(std::move(state)),
      committed_revision_(state_.revision) {
  engine::BuildIndexes(state_, Now(), options_.lease);
  tally_.Reset(state_);
  deadline_ = engine::NextDeadline(state_);
}

bool Loop::Enqueue(Item& item, bool is_always_taken, absl::Status& why) {
  bool was_empty;
  {
    const std::scoped_lock lock(mutex_);
    if (!failure_.ok() || is_stopping_) {
      why = failure_.ok() ? absl::UnavailableError("the coordinator is ending") : failure_;
      return false;
    }
    if (queue_.size() >= kQueueMax && !is_always_taken) {
      why = absl::ResourceExhaustedError(fmt::format("{} commands wait already; try again later", queue_.size()));
      return false;
    }
    was_empty = queue_.empty();
    queue_.push_back(std::move(item));
  }
  if (was_empty) has_work_.notify_one();
  return true;
}

void Loop::Submit(engine::Command command, ReplyCallback done) {
  // The engine must hear of a stream's end: nobody would say it again.
  const bool is_always_taken = std::holds_alternative<engine::WorkerDisconnected>(command);
  Item item = CommandItem{.command = std::move(command), .done = std::move(done), .reply = engine::Reply()};
  absl::Status why;
  if (!Enqueue(item, is_always_taken, why)) std::get<CommandItem>(item).done(why, nullptr);
}

void Loop::Read(ReadCallback read) {
  Item item = std::move(read);
  absl::Status why;
  if (!Enqueue(item, /*is_always_taken=*/false, why)) std::get<ReadCallback>(item)(why, nullptr);
}

void Loop::Stop() {
  {
    const std::scoped_lock lock(mutex_);
    is_stopping_ = true;
  }
  has_work_.notify_one();
}

std::deque<Loop::Item> Loop::TakeQueued() {
  if (queue_.size() <= kTickItemsMax) return std::exchange(queue_, {});
  const auto end = queue_.begin() + kTickItemsMax;
  std::deque<Item> items(std::make_move_iterator(queue_.begin()), std::make_move_iterator(end));
  queue_.erase(queue_.begin(), end);
  return items;
}

std::optional<std::deque<Loop::Item>> Loop::TakeWork() {
  std::unique_lock lock(mutex_);
  // wait_for counts steady time; absl's condition variables would wait for the time of day.
  while (queue_.empty() && !is_stopping_) {
    if (!deadline_) {
      has_work_.wait(lock);
      continue;
    }
    const absl::Duration left = *deadline_ - Now();
    if (left <= absl::ZeroDuration()) break;
    has_work_.wait_for(lock, absl::ToChronoMicroseconds(std::min(left, absl::Hours(1)) + absl::Microseconds(1)));
  }
  if (queue_.empty() && is_stopping_) return std::nullopt;
  return TakeQueued();
}

absl::Status Loop::Run() {
  while (std::optional<std::deque<Item>> items = TakeWork()) {
    NORMLAB_RETURN_IF_ERROR(Tick(*std::move(items)));
  }
  return absl::OkStatus();
}

absl::Status Loop::RunOnce() {
  std::deque<Item> items;
  {
    const std::scoped_lock lock(mutex_);
    items = TakeQueued();
  }
  return Tick(std::move(items));
}

absl::Status Loop::Tick(std::deque<Item> items) {
  const absl::Time now = Now();
  engine::Changes changes;
  ApplyAll(items, now, changes);
  // After the commands: a heartbeat that has arrived counts, however long the loop was held up.
  if (deadline_ && *deadline_ <= now) ApplyTick(now, changes);
  // Age, usage and run time move without any event.
  const bool is_due = pass_due_ && *pass_due_ <= now;
  const bool has_passed = (std::exchange(may_place_, false) || is_due) && !state_.lines.empty();
  if (has_passed) Place(now, changes);
  if (state_.lines.empty()) {
    pass_due_.reset();
  } else if (has_passed || !pass_due_) {
    pass_due_ = now + kPassInterval;
  }
  if (absl::Status stored = Commit(changes); !stored.ok()) {
    Fail(stored, items);
    return stored;
  }
  for (const service::AttemptOutcome outcome : tally_.Update(state_, changes.runs)) {
    metrics_.attempts.Add({{"outcome", service::Name(outcome)}}).Increment();
  }
  deadline_ = engine::NextDeadline(state_);
  if (pass_due_) deadline_ = deadline_ ? std::min(*deadline_, *pass_due_) : *pass_due_;
  metrics_.tick_commands.Observe(static_cast<double>(items.size()));
  Answer(items, changes, now);
  return absl::OkStatus();
}

void Loop::ApplyAll(std::deque<Item>& items, absl::Time now, engine::Changes& changes) {
  for (Item& item : items) {
    auto* command = std::get_if<CommandItem>(&item);
    if (command == nullptr) continue;
    command->reply = engine::Apply(options_, state_, command->command, now, changes);
    may_place_ = may_place_ || MayFreeOrQueue(command->command);
  }
}

void Loop::ApplyTick(absl::Time now, engine::Changes& changes) {
  const int64_t leases_before = CountLeases(state_);
  const auto reply = engine::Apply(options_, state_, engine::Tick(), now, changes);
  if (!reply.ok()) spdlog::error("the engine refused a tick: {}", reply.status().ToString());
  const int64_t num_lost = leases_before - CountLeases(state_);
  if (num_lost > 0) {
    spdlog::warn("the leases of {} workers are over", num_lost);
    metrics_.leases_lost.Increment(static_cast<double>(num_lost));
  }
  may_place_ = true;
}

void Loop::Place(absl::Time now, engine::Changes& changes) {
  const absl::Time start = clock_.SteadyNow();
  const scheduler::Decision decision = scheduler::Schedule(state_, options_.policy, now);
  metrics_.scheduling_seconds.Observe(absl::ToDoubleSeconds(clock_.SteadyNow() - start));
  for (const scheduler::Preemption& preemption : decision.preemptions) {
    const engine::PreemptRun command = {.run = preemption.run, .beneficiary = preemption.beneficiary};
    const auto reply = engine::Apply(options_, state_, command, now, changes);
    if (!reply.ok()) spdlog::error("preemption of {}: {}", preemption.run.ToString(), reply.status().ToString());
  }
  for (const scheduler::Placement& placement : decision.placements) {
    const engine::PlaceRun command = {.run = placement.run, .gang = placement.gang};
    const auto reply = engine::Apply(options_, state_, command, now, changes);
    if (!reply.ok()) spdlog::error("placement of {}: {}", placement.run.ToString(), reply.status().ToString());
  }
}

absl::Status Loop::Commit(const engine::Changes& changes) {
  if (!changes.HasDurablePart()) return absl::OkStatus();
  // Every commit has a revision of its own: the store's keys of events rest on it.
  if (state_.revision == committed_revision_) ++state_.revision;
  const absl::Time start = clock_.SteadyNow();
  NORMLAB_RETURN_IF_ERROR(store_.Commit(state_, changes));
  committed_revision_ = state_.revision;
  metrics_.commit_seconds.Observe(absl::ToDoubleSeconds(clock_.SteadyNow() - start));
  metrics_.commit_records.Observe(static_cast<double>(CountRecords(changes)));
  return absl::OkStatus();
}

void Loop::Answer(std::deque<Item>& items, const engine::Changes& changes, absl::Time now) {
  const std::function<std::string(const engine::Run&)> explain_wait = [this, now](const engine::Run& run) {
    return scheduler::ExplainWait(state_, options_.policy, run, now);
  };
  const std::function<std::vector<service::WaitingRun>(size_t, size_t)> list_waiting = [this, now](size_t offset,
                                                                                                   size_t limit) {
    std::vector<service::WaitingRun> list;
    for (auto& [run, position, reason] : scheduler::ListWaiting(state_, options_.policy, now, offset, limit)) {
      list.push_back({run, position, std::move(reason)});
    }
    return list;
  };
  const service::View view = {
      .state = state_, .now = now, .tally = tally_, .explain_wait = explain_wait, .list_waiting = list_waiting};
  for (Item& item : items) {
    if (auto* command = std::get_if<CommandItem>(&item)) {
      command->done(command->reply, command->reply.ok() ? &view : nullptr);
    } else {
      std::get<ReadCallback>(item)(absl::OkStatus(), &view);
    }
  }
  if (!changes.HasDurablePart() && changes.messages.empty()) return;
  for (service::TickListener* listener : listeners_) listener->OnTick(view, changes);
}

void Loop::Fail(const absl::Status& error, std::deque<Item>& items) {
  spdlog::error("a commit failed, the coordinator ends: {}", error.ToString());
  const absl::Status answer =
      absl::UnavailableError(fmt::format("not stored, the coordinator is ending: {}", std::string(error.message())));
  std::deque<Item> waiting;
  {
    const std::scoped_lock lock(mutex_);
    failure_ = answer;
    waiting = std::exchange(queue_, {});
  }
  std::move(waiting.begin(), waiting.end(), std::back_inserter(items));
  for (Item& item : items) {
    if (auto* command = std::get_if<CommandItem>(&item)) {
      command->done(answer, nullptr);
    } else {
      std::get<ReadCallback>(item)(answer, nullptr);
    }
  }
}

}  // namespace normlab
