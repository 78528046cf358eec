#include "coordinator/service/watch_hub.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "coordinator/service/convert.h"
#include "coordinator/service/ending_stream.h"
#include "coordinator/service/limits.h"
#include "coordinator/service/run_scan.h"

namespace normlab::service {

/// One stream. Lives until gRPC is done with it and nobody else holds it.
class Watcher final : public EndingStream<grpc::ServerWriteReactor<v1::WatchRunsResponse>>,
                      public std::enable_shared_from_this<Watcher> {
 public:
  Watcher(WatchHub& hub, EnginePort& engine, bool until_terminal)
      : hub_(hub), engine_(engine), until_terminal_(until_terminal) {}

  /// gRPC keeps no reference that C++ sees; this one is dropped in OnDone.
  void HoldUntilDone() { self_ = shared_from_this(); }

  /// Begins with `chosen`, none of them seen. Returns false if the stream has ended already.
  bool Begin(std::set<RunId> chosen, const View& view) {
    const std::scoped_lock lock(mutex_);
    if (is_finished_) return false;
    chosen_ = std::move(chosen);
    pending_ = chosen_;
    live_ = chosen_;
    WriteNext(view);
    return true;
  }

  void NoteChanges(const View& view, const std::set<RunId>& changed) {
    const std::scoped_lock lock(mutex_);
    std::set_intersection(changed.begin(), changed.end(), chosen_.begin(), chosen_.end(),
                          std::inserter(pending_, pending_.end()));
    WriteNext(view);
  }

  void OnWriteDone(bool ok) override {
    const std::scoped_lock lock(mutex_);
    is_busy_ = false;
    if (!ok) return EndLocked(absl::CancelledError("the watcher is gone"));
    FinishIfEnded();
    if (is_finished_ || pending_.empty()) return;
    engine_.Read([self = shared_from_this()](const absl::Status& status, const View* view) {
      if (!status.ok()) return self->End(status);
      const std::scoped_lock lock(self->mutex_);
      self->WriteNext(*view);
    });
  }

  void OnCancel() override { End(absl::CancelledError("the watcher is gone")); }

  void OnDone() override {
    hub_.Remove(shared_from_this());
    self_.reset();
  }

 private:
  void WriteNext(const View& view) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (end_ || is_busy_ || pending_.empty()) return;
    message_.Clear();
    size_t bytes = 0;
    while (!pending_.empty() && message_.runs_size() < kWatchRunsMax && bytes < kPageBytesMax) {
      const engine::Run& run = view.state.runs.at(*pending_.begin());
      pending_.erase(pending_.begin());
      if (engine::IsTerminal(run.state)) {
        live_.erase(run.id);
      } else {
        live_.insert(run.id);
      }
      *message_.add_runs() = ToListedRun(run);
      bytes += message_.runs().rbegin()->ByteSizeLong();
    }
    if (pending_.empty()) seen_revision_ = view.state.revision;
    message_.set_revision(seen_revision_);
    is_busy_ = true;
    if (until_terminal_ && pending_.empty() && live_.empty()) end_ = absl::OkStatus();
    StartWrite(&message_);
  }

  WatchHub& hub_;
  EnginePort& engine_;
  const bool until_terminal_;
  std::shared_ptr<Watcher> self_;

  std::set<RunId> chosen_ ABSL_GUARDED_BY(mutex_);
  std::set<RunId> pending_ ABSL_GUARDED_BY(mutex_);  // Not seen in their newest state.
  std::set<RunId> live_ ABSL_GUARDED_BY(mutex_);     // Not seen in a terminal state.
  int64_t seen_revision_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::WatchRunsResponse message_ ABSL_GUARDED_BY(mutex_);
};

namespace {

std::set<RunId> Choose(const engine::Selector& selector, const View& view) {
  std::set<RunId> chosen;
  ScanRuns(view.state, selector, std::nullopt, [&](const engine::Run& run, bool is_chosen) {
    if (is_chosen) chosen.insert(chosen.end(), run.id);
    return true;
  });
  return chosen;
}

}  // namespace

grpc::ServerWriteReactor<v1::WatchRunsResponse>* WatchHub::Watch(engine::Selector selector, bool until_terminal) {
  auto watcher = std::make_shared<Watcher>(*this, engine_, until_terminal);
  watcher->HoldUntilDone();
  engine_.Read([this, watcher, selector = std::move(selector)](const absl::Status& status, const View* view) {
    if (!status.ok()) return watcher->End(status);
    Begin(watcher, selector, *view);
  });
  return watcher.get();
}

void WatchHub::Begin(const std::shared_ptr<Watcher>& watcher, const engine::Selector& selector, const View& view) {
  std::set<RunId> chosen = Choose(selector, view);
  if (chosen.empty()) return watcher->End(absl::NotFoundError("the selector chooses no run"));
  const std::scoped_lock lock(mutex_);
  if (!end_.ok()) return watcher->End(end_);
  // Under the lock, so that the Remove of a stream that ends meanwhile comes after the insertion.
  if (watcher->Begin(std::move(chosen), view)) watchers_.insert(watcher);
}

void WatchHub::OnTick(const View& view, const engine::Changes& changes) {
  if (changes.runs.empty()) return;
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    const std::scoped_lock lock(mutex_);
    watchers.assign(watchers_.begin(), watchers_.end());
  }
  for (const auto& watcher : watchers) watcher->NoteChanges(view, changes.runs);
}

void WatchHub::EndAll(const absl::Status& status) {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    const std::scoped_lock lock(mutex_);
    end_ = status;
    watchers.assign(watchers_.begin(), watchers_.end());
  }
  for (const auto& watcher : watchers) watcher->End(status);
}

void WatchHub::Remove(const std::shared_ptr<Watcher>& watcher) {
  const std::scoped_lock lock(mutex_);
  watchers_.erase(watcher);
}

int WatchHub::num_watchers() const {
  const std::scoped_lock lock(mutex_);
  return static_cast<int>(watchers_.size());
}

}  // namespace normlab::service
