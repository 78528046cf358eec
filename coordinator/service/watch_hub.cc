#include "coordinator/service/watch_hub.h"

#include <fmt/format.h>
#include <grpcpp/alarm.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "coordinator/service/convert.h"
#include "coordinator/service/ending_stream.h"
#include "coordinator/service/limits.h"
#include "coordinator/service/run_scan.h"

namespace normlab::service {

/// One stream. Lives until gRPC is done with it and nobody else holds it. First it sends the chosen runs as they are,
/// in pieces of which each is as new as its sending; then the log's changes from the watch's beginning on, without
/// those that a run's piece had already.
class Watcher final : public EndingStream<grpc::ServerWriteReactor<v1::WatchRunsResponse>>,
                      public std::enable_shared_from_this<Watcher> {
 public:
  Watcher(WatchHub& hub, EnginePort& engine, const ChangeLog& log, bool until_terminal)
      : hub_(hub), engine_(engine), log_(log), until_terminal_(until_terminal) {}

  /// gRPC keeps no reference that C++ sees; this one is dropped in OnDone.
  void HoldUntilDone() { self_ = shared_from_this(); }

  /// Begins with the `chosen` runs, or behind `since_revision`. Returns false if the stream has ended already. On the
  /// engine's thread.
  bool Begin(std::set<RunId> chosen, std::optional<int64_t> since_revision, const View& view) {
    const std::scoped_lock lock(mutex_);
    if (is_finished_) return false;
    chosen_ = std::move(chosen);
    for (const RunId id : chosen_) {
      if (!engine::IsTerminal(view.state.runs.at(id).state)) live_.insert(id);
    }
    const ChangeLog::Position end = log_.End();
    begin_ = next_ = end;
    if (!since_revision) {
      unsent_ = chosen_;
      WriteRuns(view);
      return true;
    }
    if (const auto found = log_.Find(*since_revision)) {
      next_ = *found;
      ReadSoon();
    } else {
      Resync(
          *since_revision > end.revision
              ? fmt::format(
                    "since_revision: revision {} is not reached yet, the newest is {}: the store may be one that was "
                    "restored from a backup",
                    *since_revision, end.revision)
              : fmt::format(
                    "since_revision: revision {} is older than the changes that are kept, which begin behind {}",
                    *since_revision, log_.oldest_revision()));
    }
    return true;
  }

  /// On the engine's thread.
  void NoteChanges(const std::set<RunId>& changed, uint64_t end_sequence) {
    const std::scoped_lock lock(mutex_);
    const bool has_chosen =
        std::any_of(changed.begin(), changed.end(), [this](RunId id) { return chosen_.contains(id); });
    // A watcher of quiet runs is told how far it is, or it could not resume.
    const bool is_far_behind = end_sequence - next_.sequence > kQuietChangesMax;
    if (!has_chosen && !is_far_behind) return;
    has_news_ = true;
    ReadSoon();
  }

  /// Revisions that it has still to be sent, if the newest is `revision`; 0 if none of them is about its runs.
  int64_t LagBehind(int64_t revision) {
    const std::scoped_lock lock(mutex_);
    return has_news_ || !unsent_.empty() ? revision - next_.revision : 0;
  }

  void OnWriteDone(bool ok) override {
    const std::scoped_lock lock(mutex_);
    is_busy_ = false;
    if (!ok) return EndLocked(absl::CancelledError("the watcher is gone"));
    FinishIfEnded();
    if (is_finished_) return;
    if (unsent_.empty()) return ReadChanges();
    is_busy_ = true;
    engine_.Read([self = shared_from_this()](const absl::Status& status, const View* view) {
      const std::scoped_lock lock(self->mutex_);
      self->is_busy_ = false;
      if (!status.ok()) return self->EndLocked(status);
      self->FinishIfEnded();
      if (!self->is_finished_) self->WriteRuns(*view);
    });
  }

  void OnCancel() override { End(absl::CancelledError("the watcher is gone")); }

  void OnDone() override {
    hub_.Remove(shared_from_this());
    self_.reset();
  }

 private:
  static constexpr uint64_t kQuietChangesMax = 4096;

  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    is_busy_ = true;
    StartWrite(&message_);
  }

  /// The next piece of the runs as they are.
  void WriteRuns(const View& view) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    message_.Clear();
    size_t bytes = 0;
    while (!unsent_.empty() && message_.runs_size() < kWatchRunsMax && bytes < kPageBytesMax) {
      const engine::Run& run = view.state.runs.at(*unsent_.begin());
      unsent_.erase(unsent_.begin());
      if (run.revision > begin_.revision) sent_revisions_[run.id] = run.revision;
      *message_.add_runs() = ToListedRun(run);
      bytes += message_.runs().rbegin()->ByteSizeLong();
    }
    if (unsent_.empty()) message_.set_revision(begin_.revision);
    if (until_terminal_ && unsent_.empty() && live_.empty()) end_ = absl::OkStatus();
    Write();
  }

  /// Hops to one of gRPC's threads by an alarm that is due at once.
  void ReadSoon() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (is_busy_ || is_finished_ || !unsent_.empty()) return;
    is_busy_ = true;
    // The alarm keeps its callback, and this the alarm: a strong reference would be a circle.
    alarm_.Set(std::chrono::system_clock::now(), [weak = weak_from_this()](bool) {
      const auto self = weak.lock();  // There: a busy stream does not end.
      const std::scoped_lock lock(self->mutex_);
      self->is_busy_ = false;
      self->FinishIfEnded();
      if (!self->is_finished_) self->ReadChanges();
    });
  }

  /// One page of the log: the engine's thread waits for this lock when it tells of changes.
  void ReadChanges() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    message_.Clear();
    has_news_ = false;  // Before the read: what is appended after it wakes the stream again.
    const auto page = log_.Read(next_.sequence, chosen_, kWatchRunsMax);
    if (!page) {
      return Resync(fmt::format(
          "the watcher is too slow: it has seen revision {}, and the changes that are kept begin behind {}; "
          "read faster or choose fewer runs",
          next_.revision, log_.oldest_revision()));
    }
    for (size_t i = 0; i < page->runs.size(); ++i) Add(*page->runs[i], page->sequences[i]);
    next_ = page->next;
    message_.set_revision(next_.revision);
    const bool is_over = until_terminal_ && page->is_end && live_.empty();
    if (is_over) end_ = absl::OkStatus();
    if (message_.runs_size() > 0 || next_.sequence - told_sequence_ > kQuietChangesMax) {
      told_sequence_ = next_.sequence;
      return Write();
    }
    if (is_over) return FinishIfEnded();
    if (!page->is_end) ReadSoon();
  }

  void Add(const engine::Run& run, uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (sequence >= begin_.sequence && engine::IsTerminal(run.state)) live_.erase(run.id);
    if (sequence >= begin_.sequence && !engine::IsTerminal(run.state)) live_.insert(run.id);
    const auto sent = sent_revisions_.find(run.id);
    if (sent != sent_revisions_.end()) {
      if (run.revision <= sent->second) return;
      sent_revisions_.erase(sent);
    }
    *message_.add_runs() = ToListedRun(run);
  }

  /// Tells the watcher to look anew, and ends.
  void Resync(const std::string& reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++hub_.num_resyncs_;
    message_.Clear();
    message_.mutable_resync()->set_revision(log_.newest_revision());
    message_.mutable_resync()->set_oldest_revision(log_.oldest_revision());
    message_.mutable_resync()->set_reason(reason);
    end_ = absl::OutOfRangeError(
        fmt::format("{}; watch without since_revision, or list and go on from the list's revision", reason));
    Write();
  }

  WatchHub& hub_;
  EnginePort& engine_;
  const ChangeLog& log_;
  const bool until_terminal_;
  std::shared_ptr<Watcher> self_;

  grpc::Alarm alarm_ ABSL_GUARDED_BY(mutex_);
  std::set<RunId> chosen_ ABSL_GUARDED_BY(mutex_);
  std::set<RunId> unsent_ ABSL_GUARDED_BY(mutex_);  // Of the chosen ones, not sent as they are.
  std::set<RunId> live_ ABSL_GUARDED_BY(mutex_);    // Not terminal at begin_, or by what was read since.
  // Of runs whose piece was newer than begin_.
  std::map<RunId, int64_t> sent_revisions_ ABSL_GUARDED_BY(mutex_);
  ChangeLog::Position begin_ ABSL_GUARDED_BY(mutex_);  // The log's end when the watch began.
  ChangeLog::Position next_ ABSL_GUARDED_BY(mutex_);
  uint64_t told_sequence_ ABSL_GUARDED_BY(mutex_) = 0;  // Of the last message's revision.
  bool has_news_ ABSL_GUARDED_BY(mutex_) = false;
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

grpc::ServerWriteReactor<v1::WatchRunsResponse>* WatchHub::Watch(Request request) {
  auto watcher = std::make_shared<Watcher>(*this, engine_, log_, request.until_terminal);
  watcher->HoldUntilDone();
  engine_.Read([this, watcher, request = std::move(request)](const absl::Status& status, const View* view) {
    if (!status.ok()) return watcher->End(status);
    Begin(watcher, request, *view);
  });
  return watcher.get();
}

void WatchHub::Begin(const std::shared_ptr<Watcher>& watcher, const Request& request, const View& view) {
  std::set<RunId> chosen = Choose(request.selector, view);
  if (chosen.empty()) return watcher->End(absl::NotFoundError("the selector chooses no run"));
  const std::scoped_lock lock(mutex_);
  if (!end_.ok()) return watcher->End(end_);
  // Under the lock, so that the Remove of a stream that ends meanwhile comes after the insertion.
  if (watcher->Begin(std::move(chosen), request.since_revision, view)) watchers_.insert(watcher);
}

void WatchHub::OnTick(const View& view, const engine::Changes& changes) {
  log_.Append(view.state, changes.runs);
  if (changes.runs.empty()) return;
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    const std::scoped_lock lock(mutex_);
    watchers.assign(watchers_.begin(), watchers_.end());
  }
  const uint64_t end_sequence = log_.End().sequence;
  for (const auto& watcher : watchers) watcher->NoteChanges(changes.runs, end_sequence);
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

int64_t WatchHub::lag() const {
  const int64_t newest = log_.newest_revision();
  const std::scoped_lock lock(mutex_);
  int64_t lag = 0;
  for (const auto& watcher : watchers_) lag = std::max(lag, watcher->LagBehind(newest));
  return lag;
}

int WatchHub::num_watchers() const {
  const std::scoped_lock lock(mutex_);
  return static_cast<int>(watchers_.size());
}

}  // namespace normlab::service
