#pragma once

#include <absl/status/status.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "coordinator/engine/engine.h"
#include "coordinator/loop.h"
#include "coordinator/metrics/metrics.h"
#include "coordinator/service/change_log.h"
#include "coordinator/store/store.h"
#include "tests/simulation/disk.h"
#include "tests/simulation/faults.h"
#include "tests/simulation/link.h"
#include "tests/simulation/observer.h"
#include "tests/simulation/rules.h"
#include "tests/simulation/timeline.h"

namespace normlab::simulation {

/// The coordinator's process on its host: the daemon's loop over the simulated disk, sessions of workers, calls of
/// clients. What the loop says while a commit is under way is said only once the commit is done; a crash before takes
/// it all back.
class Coordinator final : public service::TickListener {
 public:
  Coordinator(Timeline& timeline, Dice dice, Observer& observer, Rules& rules, const engine::Options& options);
  ~Coordinator() override;

  void Start();
  /// The process is gone, and comes back after `down`.
  void Crash(absl::Duration down);
  bool is_up() const { return loop_ != nullptr; }
  bool is_committing() const { return is_committing_; }

  void SlowDownUntil(absl::Time until, absl::Duration commit) { slow_until_ = until, slow_commit_ = commit; }
  void FailNextCommit() { disk_.FailNextWrite(); }
  void CrashInNextCommit() { crashes_in_commit_ = true; }
  void SetClock(absl::Duration wall_error) { next_wall_error_ = wall_error; }

  /// A new connection of a worker has come through.
  void Accept(const std::shared_ptr<Link>& link);

  /// `done` is called once the answer may be said, with the revision of the view behind it, or never, if the process
  /// ends before. `look` is called with the view, at once; what it returns is called with `done`.
  using Look = std::function<std::function<void()>(const absl::StatusOr<engine::Reply>&, const service::View*)>;
  void Call(engine::Command command, Look look);
  using ReadLook = std::function<std::function<void()>(const absl::Status&, const service::View*)>;
  void Read(ReadLook look);

  /// Is told of every tick that was said to be durable, with what changed; until the process ends.
  using Watch = std::function<std::function<void()>(const service::View&, const engine::Changes&)>;
  void AddWatch(Watch watch) { watches_.push_back(std::move(watch)); }

  /// No line stands twice in the store, whoever repeated what.
  void CheckLogs();

  /// What the present process keeps for watchers.
  const std::shared_ptr<service::ChangeLog>& change_log() const { return change_log_; }

  /// Once, when the present process ends.
  void OnDeath(std::function<void()> action) { at_death_.push_back(std::move(action)); }

  void OnStart(int64_t revision) override { change_log_->Begin(revision); }
  void OnTick(const service::View& view, const engine::Changes& changes) override;

 private:
  /// The coordinator's end of one worker's stream; does what service/sessions.cc does.
  struct Session {
    std::shared_ptr<Link> link;
    WorkerId worker;
    std::string incarnation;
    bool accepts_messages = false;
    bool has_ended = false;
  };
  using SessionRef = std::shared_ptr<Session>;

  void OnMessage(const SessionRef& session, const v1::WorkerMessage& message);
  void TakeHello(const SessionRef& session, const v1::WorkerHello& hello);
  void Submit(const SessionRef& session, engine::Command command);
  void End(const SessionRef& session, const absl::Status& status);

  void PlanTick(absl::Duration delay);
  void Tick();
  void CommitDone();
  /// Says what has to wait for the commit that is under way, or at once if there is none.
  void Emit(std::function<void()> action);
  void Flush();
  void Die(absl::Duration down);

  Timeline& timeline_;
  Dice dice_;
  Observer& observer_;
  Rules& rules_;
  const engine::Options options_;
  HostClock clock_;
  std::optional<absl::Duration> next_wall_error_;
  Disk disk_;

  // One process.
  int incarnation_ = 0;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Loop> loop_;
  std::shared_ptr<service::ChangeLog> change_log_;
  std::map<WorkerId, SessionRef> by_worker_;
  std::set<SessionRef> open_;
  std::vector<Watch> watches_;
  std::vector<std::function<void()>> at_death_;
  bool is_in_tick_ = false;
  bool is_committing_ = false;
  static constexpr int kTicksAtOnceMax = 1000;
  static constexpr size_t kChangesKept = 20;

  std::optional<absl::Time> next_tick_;
  absl::Time last_tick_ = absl::InfinitePast();
  int num_ticks_at_once_ = 0;  // At last_tick_.
  uint64_t tick_token_ = 0;
  std::vector<std::pair<int64_t, std::function<void()>>> outbox_;  // With the number of writes before.

  absl::Time slow_until_ = absl::InfinitePast();
  absl::Duration slow_commit_;
  bool crashes_in_commit_ = false;
};

}  // namespace normlab::simulation
