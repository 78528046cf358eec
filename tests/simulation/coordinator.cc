#include "tests/simulation/coordinator.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "coordinator/service/convert.h"
#include "coordinator/store/record_store.h"

namespace normlab::simulation {

Coordinator::Coordinator(Timeline& timeline, Dice dice, Observer& observer, Rules& rules,
                         const engine::Options& options)
    : timeline_(timeline),
      dice_(dice),
      observer_(observer),
      rules_(rules),
      options_(options),
      clock_(timeline, absl::Hours(100)) {
  if (observer.plant == Plant::kLostWrite) disk_.BreakPromise();
  if (observer.plant == Plant::kLogTailForgotten) disk_.HideLogTails();
}

Coordinator::~Coordinator() {
  for (const SessionRef& session : open_) session->link->up->Deafen();  // Its receiver holds the session.
}

void Coordinator::Start() {
  ++incarnation_;
  observer_.coverage.restarts += incarnation_ > 1;
  if (next_wall_error_) clock_.SetWallError(*std::exchange(next_wall_error_, std::nullopt));
  disk_.Repair();
  auto store = store::OpenRecordStore(disk_.MakeBackend());
  if (!store.ok()) return observer_.Break("the store does not open: {}", store.status().ToString());
  store_ = *std::move(store);
  const auto loaded = store_->Load();
  if (!loaded.ok()) return observer_.Break("the store does not load: {}", loaded.status().ToString());
  rules_.CheckLoaded(*loaded);
  metrics_ = std::make_unique<Metrics>();
  auto loop = Loop::Create(options_, *store_, clock_, *metrics_);
  if (!loop.ok()) return observer_.Break("the loop does not start: {}", loop.status().ToString());
  loop_ = *std::move(loop);
  change_log_ = std::make_shared<service::ChangeLog>(kChangesKept);
  loop_->AddListener(this);
  observer_.Trace("coordinator {} starts", incarnation_);
  PlanTick(absl::ZeroDuration());
}

void Coordinator::Die(absl::Duration down) {
  outbox_.clear();
  is_committing_ = false;
  loop_.reset();
  store_.reset();
  metrics_.reset();
  watches_.clear();
  change_log_.reset();
  for (const auto& action : std::exchange(at_death_, {})) action();
  by_worker_.clear();
  next_tick_.reset();
  ++tick_token_;
  for (const SessionRef& session : std::exchange(open_, {})) {
    session->link->up->Deafen();
    session->link->down->Break();
  }
  timeline_.After(down, [this] { Start(); });
}

void Coordinator::Crash(absl::Duration down) {
  if (!is_up()) return;
  observer_.Trace("coordinator {} crashes{}", incarnation_, is_committing_ ? " in a commit" : "");
  if (is_committing_) {
    const bool is_lost = dice_.Chance(0.5);
    ++(is_lost ? observer_.coverage.lost_commits : observer_.coverage.kept_commits);
    observer_.Trace("the commit is {}", is_lost ? "lost" : "on the disk");
    if (is_lost) {
      disk_.Lose(observer_.plant == Plant::kTornBatch ? 0.5 : 1);
      rules_.RollBack();
    }
  } else if (dice_.Chance(0.5) || observer_.plant == Plant::kLostWrite) {
    disk_.Lose();  // What was not promised.
  }
  disk_.Sync();
  rules_.Commit();
  Die(down);
}

void Coordinator::PlanTick(absl::Duration delay) {
  if (!is_up() || is_committing_) return;
  const absl::Time when = timeline_.now() + std::max(delay, absl::ZeroDuration());
  if (next_tick_ && *next_tick_ <= when) return;
  next_tick_ = when;
  timeline_.At(when, [this, token = ++tick_token_] {
    if (token == tick_token_) Tick();
  });
}

void Coordinator::Tick() {
  next_tick_.reset();
  is_in_tick_ = true;
  const int64_t writes_before = disk_.num_writes();
  const absl::Status status = loop_->RunOnce();
  is_in_tick_ = false;
  if (!status.ok()) {
    ++observer_.coverage.failed_commits;
    observer_.Trace("the commit fails: {}", status.ToString());
    Flush();  // Everybody is told that nothing is sure.
    // After a failed fsync nobody knows.
    if (dice_.Chance(0.5)) disk_.Lose();
    disk_.Sync();
    rules_.ForgetUnsure();
    return Die(dice_.Between(absl::Milliseconds(100), absl::Seconds(5)));
  }
  if (std::exchange(last_tick_, timeline_.now()) != timeline_.now()) num_ticks_at_once_ = 0;
  if (++num_ticks_at_once_ > kTicksAtOnceMax) return observer_.Break("the loop ticks without end at one moment");
  if (disk_.num_writes() == writes_before) {
    Flush();
    return PlanTick(loop_->IdleTime());
  }
  // What was said before the write did not wait for it.
  auto late =
      std::partition(outbox_.begin(), outbox_.end(), [&](const auto& entry) { return entry.first == writes_before; });
  std::vector<std::pair<int64_t, std::function<void()>>> waiting(std::make_move_iterator(late),
                                                                 std::make_move_iterator(outbox_.end()));
  outbox_.erase(late, outbox_.end());
  is_committing_ = true;
  if (observer_.plant == Plant::kReplyBeforeCommit)
    std::move(waiting.begin(), waiting.end(), std::back_inserter(outbox_));
  if (observer_.plant == Plant::kReplyBeforeCommit) waiting.clear();
  Flush();
  outbox_ = std::move(waiting);
  absl::Duration commit = dice_.Between(absl::Microseconds(200), absl::Milliseconds(5));
  if (timeline_.now() < slow_until_) commit = dice_.Between(absl::ZeroDuration(), slow_commit_);
  if (std::exchange(crashes_in_commit_, false)) {
    timeline_.After(commit / 2, [this, now = incarnation_] {
      if (now == incarnation_ && is_committing_) Crash(dice_.Between(absl::Milliseconds(100), absl::Seconds(15)));
    });
  }
  timeline_.After(commit, [this, now = incarnation_] {
    if (now == incarnation_ && is_committing_) CommitDone();
  });
}

void Coordinator::CommitDone() {
  if (observer_.plant != Plant::kLostWrite) disk_.Sync();
  rules_.Commit();
  is_committing_ = false;
  Flush();
  PlanTick(loop_->IdleTime());
  // What came meanwhile.
  PlanTick(absl::Microseconds(50));
}

void Coordinator::CheckLogs() {
  std::set<std::string> seen;
  for (const auto& [id, run] : rules_.runs()) {
    const auto page = store_->Logs(id, 0, std::numeric_limits<int>::max());
    if (!page.ok()) return observer_.Break("logs of {}: {}", id.ToString(), page.status().ToString());
    observer_.coverage.log_lines += static_cast<int64_t>(page->entries.size());
    for (const v1::LogEntry& entry : page->entries) {
      if (seen.insert(entry.line().text()).second) continue;
      observer_.Break("{} has '{}' of attempt {} twice", id.ToString(), entry.line().text(), entry.attempt());
    }
  }
}

void Coordinator::Emit(std::function<void()> action) {
  if (action == nullptr) return;
  if (!is_in_tick_ && !is_committing_) return action();
  outbox_.emplace_back(disk_.num_writes(), std::move(action));
}

void Coordinator::Flush() {
  for (auto& [writes, action] : std::exchange(outbox_, {})) action();
}

void Coordinator::Call(engine::Command command, Look look) {
  loop_->Submit(std::move(command),
                [this, look = std::move(look)](const absl::StatusOr<engine::Reply>& reply, const service::View* view) {
                  Emit(look(reply, view));
                });
  PlanTick(absl::Microseconds(50));
}

void Coordinator::Read(ReadLook look) {
  loop_->Read([this, look = std::move(look)](const absl::Status& status, const service::View* view) {
    Emit(look(status, view));
  });
  PlanTick(absl::Microseconds(50));
}

void Coordinator::OnTick(const service::View& view, const engine::Changes& changes) {
  rules_.OnTick(view.state, changes, view.now);
  for (const engine::EventRecord& event : changes.events) {
    observer_.Trace("{} {} #{} by {}: {}", event.run.ToString(), engine::Name(event.state), event.attempt, event.actor,
                    event.reason);
  }
  Emit([log = change_log_, &state = view.state, runs = changes.runs] { log->Append(state, runs); });
  for (const Watch& watch : watches_) Emit(watch(view, changes));
  for (const engine::Outgoing& outgoing : changes.messages) {
    Emit([this, outgoing] {
      const auto found = by_worker_.find(outgoing.worker);
      if (found == by_worker_.end() || found->second->incarnation != outgoing.incarnation) return;
      // What was meant for an earlier session of this worker: the answer to this session's hello says it again.
      if (!found->second->accepts_messages || found->second->has_ended) return;
      found->second->link->down->Send(service::ToMessage(outgoing.command));
    });
  }
}

void Coordinator::Accept(const std::shared_ptr<Link>& link) {
  auto session = std::make_shared<Session>();
  session->link = link;
  open_.insert(session);
  link->up->Receive([this, session](const v1::WorkerMessage& message) { OnMessage(session, message); },
                    [this, session](const absl::Status& status) { End(session, status); });
}

void Coordinator::OnMessage(const SessionRef& session, const v1::WorkerMessage& message) {
  if (session->has_ended) return;
  if (session->worker.name.empty()) return TakeHello(session, message.hello());
  if (message.has_heartbeat()) {
    Submit(session, engine::WorkerHeartbeat{session->worker, session->incarnation});
  } else if (message.has_draining()) {
    Submit(session, engine::WorkerDraining{session->worker, session->incarnation});
  } else {
    auto report = service::ToCommand(message.report(), session->worker, session->incarnation);
    if (!report.ok()) return observer_.Break("a report is refused: {}", report.status().ToString());
    if (observer_.plant == Plant::kAcknowledgesTooMuch) report->sequence += 3;
    Submit(session, *std::move(report));
  }
}

void Coordinator::TakeHello(const SessionRef& session, const v1::WorkerHello& message) {
  auto hello = service::ToCommand(message);
  if (!hello.ok()) return observer_.Break("a hello is refused: {}", hello.status().ToString());
  session->worker = hello->worker;
  session->incarnation = hello->incarnation;
  const SessionRef old = std::exchange(by_worker_[session->worker], session);
  Call(*std::move(hello), [this, session](const absl::StatusOr<engine::Reply>& reply, const service::View*) {
    return [this, session, status = reply.status()] {
      if (!status.ok()) return End(session, status);
      session->accepts_messages = true;
    };
  });
  if (old != nullptr) End(old, absl::AbortedError("another session has begun"));
}

void Coordinator::Submit(const SessionRef& session, engine::Command command) {
  Call(std::move(command), [this, session](const absl::StatusOr<engine::Reply>& reply, const service::View*) {
    return [this, session, status = reply.status()] {
      if (!status.ok()) End(session, status);
    };
  });
}

void Coordinator::End(const SessionRef& session, const absl::Status& status) {
  if (session->has_ended) return;
  session->has_ended = true;
  open_.erase(session);
  session->link->up->Deafen();
  session->link->down->SendEnd(status);
  const auto current = by_worker_.find(session->worker);
  if (current == by_worker_.end() || current->second != session) return;
  by_worker_.erase(current);
  if (!is_up()) return;
  if (observer_.plant == Plant::kLeaseNotWaited) {
    return Call(engine::WorkerHello{.worker = session->worker, .incarnation = "gone"},
                [](const absl::StatusOr<engine::Reply>&, const service::View*) { return nullptr; });
  }
  Call(engine::WorkerDisconnected{session->worker, session->incarnation},
       [](const absl::StatusOr<engine::Reply>&, const service::View*) { return nullptr; });
}

}  // namespace normlab::simulation
