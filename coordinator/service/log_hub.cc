#include "coordinator/service/log_hub.h"

#include <fmt/format.h>
#include <grpcpp/alarm.h>

#include <chrono>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "coordinator/engine/run_state.h"
#include "coordinator/service/ending_stream.h"
#include "coordinator/service/limits.h"

namespace normlab::service {

/// One stream. Reads the store on gRPC's threads only: the engine's thread must not wait for a disk.
class LogStream final : public EndingStream<grpc::ServerWriteReactor<v1::LogEntry>>,
                        public std::enable_shared_from_this<LogStream> {
 public:
  LogStream(LogHub& hub, store::Store& store, LogHub::Request request) : hub_(hub), store_(store), request_(request) {}

  void HoldUntilDone() { self_ = shared_from_this(); }

  /// New lines may be stored, and if `is_last` no more will come.
  void Wake(bool is_last) {
    const std::scoped_lock lock(mutex_);
    has_news_ = true;
    has_last_ = has_last_ || is_last;
    ReadSoon();
  }

  void OnWriteDone(bool ok) override {
    const std::scoped_lock lock(mutex_);
    is_busy_ = false;
    if (!ok) return EndLocked(absl::CancelledError("the reader is gone"));
    FinishIfEnded();
    if (is_finished_) return;
    entries_.pop_front();
    if (entries_.empty()) {
      ReadMore();
    } else {
      WriteFront();
    }
  }

  void OnCancel() override { End(absl::CancelledError("the reader is gone")); }

  void OnDone() override {
    hub_.Remove(request_.run, shared_from_this());
    self_.reset();
  }

 private:
  /// Hops to one of gRPC's threads by an alarm that is due at once.
  void ReadSoon() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (is_busy_ || is_finished_) return;
    is_busy_ = true;
    // The alarm keeps its callback, and this the alarm: a strong reference would be a circle.
    alarm_.Set(std::chrono::system_clock::now(), [weak = weak_from_this()](bool) {
      const auto self = weak.lock();  // There: a busy stream does not end.
      const std::scoped_lock lock(self->mutex_);
      self->is_busy_ = false;
      self->FinishIfEnded();
      if (!self->is_finished_) self->ReadMore();
    });
  }

  void ReadMore() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    // Both are taken before the read: what is stored after it wakes the stream again.
    const bool is_last = has_last_;
    has_news_ = false;
    absl::StatusOr<store::Store::LogPage> page = ReadPage();
    if (!page.ok()) return EndLocked(page.status());
    position_ = page->next_position;
    entries_.assign(std::make_move_iterator(page->entries.begin()), std::make_move_iterator(page->entries.end()));
    if (!entries_.empty()) return WriteFront();
    if (is_last) return EndLocked(absl::OkStatus());
    if (has_news_) ReadSoon();
  }

  absl::StatusOr<store::Store::LogPage> ReadPage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!position_) {
      absl::StatusOr<uint64_t> first = request_.tail > 0 ? store_.LogTailPosition(request_.run, request_.tail) : 0;
      if (!first.ok()) return first.status();
      position_ = *first;
    }
    return store_.Logs(request_.run, *position_, kLogLinesPerRead);
  }

  void WriteFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    is_busy_ = true;
    StartWrite(&entries_.front());
  }

  LogHub& hub_;
  store::Store& store_;
  const LogHub::Request request_;
  std::shared_ptr<LogStream> self_;

  grpc::Alarm alarm_ ABSL_GUARDED_BY(mutex_);
  std::optional<uint64_t> position_ ABSL_GUARDED_BY(mutex_);
  std::deque<v1::LogEntry> entries_ ABSL_GUARDED_BY(mutex_);  // The first one is being written.
  bool has_news_ ABSL_GUARDED_BY(mutex_) = false;
  bool has_last_ ABSL_GUARDED_BY(mutex_) = false;
};

grpc::ServerWriteReactor<v1::LogEntry>* LogHub::Stream(const Request& request) {
  auto stream = std::make_shared<LogStream>(*this, store_, request);
  stream->HoldUntilDone();
  engine_.Read([this, stream, request](const absl::Status& status, const View* view) {
    if (!status.ok()) return stream->End(status);
    Begin(stream, request, *view);
  });
  return stream.get();
}

void LogHub::Begin(const std::shared_ptr<LogStream>& stream, const Request& request, const View& view) {
  const auto run = view.state.runs.find(request.run);
  if (run == view.state.runs.end()) {
    return stream->End(absl::NotFoundError(fmt::format("there is no run {}", request.run.ToString())));
  }
  const bool is_last = !request.follow || engine::IsTerminal(run->second.state);
  if (!is_last) {
    const std::scoped_lock lock(mutex_);
    if (!end_.ok()) return stream->End(end_);
    followers_[request.run].insert(stream);
  }
  stream->Wake(is_last);
}

void LogHub::OnTick(const View& view, const engine::Changes& changes) {
  const std::scoped_lock lock(mutex_);
  if (followers_.empty()) return;
  std::set<RunId> with_news;
  for (const engine::LogRecord& record : changes.logs) with_news.insert(record.run);
  for (const auto& [run, streams] : followers_) {
    const bool is_last = changes.runs.contains(run) && engine::IsTerminal(view.state.runs.at(run).state);
    if (!is_last && !with_news.contains(run)) continue;
    for (const auto& stream : streams) stream->Wake(is_last);
  }
}

void LogHub::EndAll(const absl::Status& status) {
  const std::scoped_lock lock(mutex_);
  end_ = status;
  for (const auto& [run, streams] : followers_) {
    for (const auto& stream : streams) stream->End(status);
  }
}

void LogHub::Remove(RunId run, const std::shared_ptr<LogStream>& stream) {
  const std::scoped_lock lock(mutex_);
  const auto streams = followers_.find(run);
  if (streams == followers_.end()) return;
  streams->second.erase(stream);
  if (streams->second.empty()) followers_.erase(streams);
}

int LogHub::num_followers() const {
  const std::scoped_lock lock(mutex_);
  size_t count = 0;
  for (const auto& [run, streams] : followers_) count += streams.size();
  return static_cast<int>(count);
}

}  // namespace normlab::service
