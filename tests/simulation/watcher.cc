#include "tests/simulation/watcher.h"

#include <algorithm>
#include <utility>

namespace normlab::simulation {
namespace {

/// Changes of one message.
constexpr size_t kPageMax = 4;
constexpr absl::Duration kSlowMax = absl::Seconds(3);

}  // namespace

Watcher::Watcher(Timeline& timeline, Dice dice, Observer& observer, Coordinator& coordinator)
    : timeline_(timeline), dice_(dice), observer_(observer), coordinator_(coordinator) {
  path_.delay_max = absl::Milliseconds(50);
}

void Watcher::BreakLink() {
  if (lane_ != nullptr) lane_->Break();
}

void Watcher::Connect() {
  timeline_.After(absl::Milliseconds(500), [this] {
    if (!coordinator_.is_up()) return Connect();
    const auto stream = std::make_shared<Stream>();
    stream->lane = lane_ = std::make_shared<Lane<Batch>>(timeline_, dice_, path_);
    stream->log = coordinator_.change_log();
    seen_now_.clear();
    told_now_ = 0;
    lane_->Receive([this](const Batch& batch) { Take(batch); }, [this](const absl::Status&) { Connect(); });
    // A process that ends takes its streams with it.
    coordinator_.OnDeath([lane = lane_] { lane->Break(); });
    coordinator_.Read([this, stream](const absl::Status& status, const service::View* view) -> std::function<void()> {
      if (!status.ok()) return [stream] { stream->lane->Break(); };
      Batch first = Open(*stream, *view);
      coordinator_.AddWatch([this, stream](const service::View&, const engine::Changes& changes) {
        stream->chosen.insert(changes.runs.begin(), changes.runs.end());
        return [this, stream] { ReadSoon(stream); };
      });
      return [this, stream, first = std::move(first)] {
        stream->lane->Send(first);
        ReadSoon(stream);
      };
    });
  });
}

/// Goes on behind the last revision that was seen if the log has it, or else from all runs as they are.
Watcher::Batch Watcher::Open(Stream& stream, const service::View& view) {
  const auto log = stream.log.lock();
  for (const auto& [id, run] : view.state.runs) stream.chosen.insert(stream.chosen.end(), id);
  if (const auto found = log->Find(revision_)) {
    ++observer_.coverage.resumes;
    stream.sequence = found->sequence;
    return {.revision = revision_};
  }
  ++observer_.coverage.resyncs;
  const service::ChangeLog::Position end = log->End();
  stream.sequence = end.sequence;
  stream.begin_revision = view.state.revision;
  // The tick of this very look is in the view and not yet in the log.
  Batch first = {.revision = end.revision};
  for (const auto& [id, run] : view.state.runs) first.runs.push_back(See(run));
  return first;
}

void Watcher::ReadSoon(const StreamRef& stream) {
  if (std::exchange(stream->is_reading, true)) return;
  const absl::Duration delay_max = dice_.Chance(slowness_) ? kSlowMax : absl::Milliseconds(20);
  timeline_.After(dice_.Between(absl::ZeroDuration(), delay_max), [this, stream] {
    stream->is_reading = false;
    ReadPage(stream);
  });
}

void Watcher::ReadPage(const StreamRef& stream) {
  const auto log = stream->log.lock();
  if (log == nullptr) return;
  const auto page = log->Read(stream->sequence, stream->chosen, kPageMax);
  if (!page) {
    ++observer_.coverage.overruns;
    stream->log.reset();
    return stream->lane->Break();
  }
  Batch batch = {.revision = page->next.revision};
  for (const auto& run : page->runs) {
    if (run->revision > stream->begin_revision) batch.runs.push_back(See(*run));
  }
  stream->sequence = page->next.sequence;
  stream->lane->Send(batch);
  if (!page->is_end) ReadSoon(stream);
}

void Watcher::Take(const Batch& batch) {
  if (batch.revision < revision_) observer_.Break("a watcher at {} is told of {}", revision_, batch.revision);
  for (const History::Seen& run : batch.runs) {
    int64_t& seen = seen_now_[run.run];
    if (run.revision <= std::max(seen, told_now_)) {
      observer_.Break("a watcher sees {} at revision {} after {}", run.run.ToString(), run.revision,
                      std::max(seen, told_now_));
    }
    seen = run.revision;
    // What the last stream had sent behind its last revision comes again.
    History::Seen& known = runs_.try_emplace(run.run, run).first->second;
    if (run.revision > known.revision) known = run;
  }
  revision_ = told_now_ = batch.revision;
}

void Watcher::CheckEnd(const std::map<RunId, engine::Run>& runs) const {
  for (const auto& [id, run] : runs) {
    const auto known = runs_.find(id);
    if (known == runs_.end() || known->second.revision != run.revision || known->second.state != run.state) {
      observer_.Break("a watcher has missed how {} ended", id.ToString());
    }
  }
}

}  // namespace normlab::simulation
