#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "coordinator/engine/engine.h"
#include "coordinator/metrics/metrics.h"
#include "coordinator/service/engine_port.h"
#include "coordinator/store/store.h"

namespace normlab {

/// The one thread that owns the engine's state: takes what is queued, applies it, places gangs, commits everything in
/// one synced batch, and only then answers and tells. Submit, Read and Stop may be called from any thread.
class Loop final : public service::EnginePort {
 public:
  /// Loads the state. `store`, `clock` and `metrics` must outlive the loop. Fails as Store::Load does.
  static absl::StatusOr<std::unique_ptr<Loop>> Create(const engine::Options& options, store::Store& store,
                                                      const Clock& clock, Metrics& metrics);

  /// Before Run.
  void AddListener(service::TickListener* listener) {
    listeners_.push_back(listener);
    listener->OnStart(state_.revision);
  }

  void Submit(engine::Command command, ReplyCallback done) override;
  void Read(ReadCallback read) override;

  /// Works until Stop, after which what was queued before is still served, or until a commit fails. Then the error is
  /// returned, nothing that was not stored has been acknowledged or sent, and everything that waits or comes later is
  /// answered UNAVAILABLE: the state in memory is ahead of the disk, so that the process has to end.
  absl::Status Run();
  void Stop();

  /// One tick over what is queued now, without waiting: what Run does again and again. For tests, instead of Run.
  absl::Status RunOnce();
  /// How long RunOnce has nothing to do if nothing is queued.
  absl::Duration IdleTime() const { return deadline_ ? *deadline_ - Now() : absl::InfiniteDuration(); }

 private:
  struct CommandItem {
    engine::Command command;
    ReplyCallback done;
    absl::StatusOr<engine::Reply> reply;
  };
  using Item = std::variant<CommandItem, ReadCallback>;

  Loop(const engine::Options& options, store::Store& store, const Clock& clock, Metrics& metrics, engine::State state);

  absl::Time Now() const { return clock_.SteadyNow() + wall_minus_steady_; }
  /// False if the queue is full or closed; then `why` says so.
  bool Enqueue(Item& item, bool is_always_taken, absl::Status& why);
  /// Waits for work or the next deadline. Nullopt once the loop was stopped and the queue is empty.
  std::optional<std::deque<Item>> TakeWork();
  std::deque<Item> TakeQueued() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Status Tick(std::deque<Item> items);
  void ApplyAll(std::deque<Item>& items, absl::Time now, engine::Changes& changes);
  void ApplyTick(absl::Time now, engine::Changes& changes);
  void Place(absl::Time now, engine::Changes& changes);
  absl::Status Commit(const engine::Changes& changes);
  void Answer(std::deque<Item>& items, const engine::Changes& changes, absl::Time now);
  void Fail(const absl::Status& error, std::deque<Item>& items);

  const engine::Options options_;
  store::Store& store_;
  const Clock& clock_;
  Metrics& metrics_;
  // The engine's time is the time of day at the start plus steady time since: leases must not end because somebody
  // sets the host's clock.
  const absl::Duration wall_minus_steady_;
  std::vector<service::TickListener*> listeners_;

  // The loop's thread only.
  engine::State state_;
  service::RunTally tally_;
  std::optional<absl::Time> deadline_;
  std::optional<absl::Time> pass_due_;  // While runs wait.
  int64_t committed_revision_ = 0;
  bool may_place_ = true;  // Something happened that can make a placement possible.

  std::mutex mutex_;
  std::condition_variable has_work_;
  std::deque<Item> queue_;    // Guarded by mutex_.
  bool is_stopping_ = false;  // Guarded by mutex_.
  absl::Status failure_;      // Guarded by mutex_; not OK after a failed commit.
};

}  // namespace normlab
