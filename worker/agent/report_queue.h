// Reports that the coordinator has not yet made durable. Pure; one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <utility>

#include "normlab/v1/worker.pb.h"

namespace normlab::agent {

/// Numbers reports from 1 and keeps each until it is acknowledged. When more than `bytes_max` wait, because the
/// coordinator is away, the queue is thinned: every second step and layer report goes (history keeps its whole length
/// at half the resolution) and the older half of the log lines. Everything else (started, evaluations, checkpoints, how
/// it ended) is always kept; those are few. A removed report leaves a gap in the sequence.
class ReportQueue {
 public:
  explicit ReportQueue(size_t bytes_max) : bytes_max_(bytes_max) {}

  /// Gives the report its sequence, which is returned.
  int64_t Add(v1::AttemptReport report) {
    report.set_sequence(++last_sequence_);
    const size_t bytes = report.ByteSizeLong() + kEntryOverhead;
    bytes_ += bytes;
    entries_.push_back({.report = std::move(report), .bytes = bytes});
    // Thinning needs something to thin: without the second condition a queue full of kept reports would be walked at
    // each Add.
    if (bytes_ > bytes_max_ && bytes_ > 2 * bytes_after_thinning_) Thin();
    return last_sequence_;
  }

  /// Everything up to `sequence` is durable.
  void Ack(int64_t sequence) {
    while (!entries_.empty() && entries_.front().report.sequence() <= sequence) {
      bytes_ -= entries_.front().bytes;
      entries_.pop_front();
      if (num_sent_ > 0) --num_sent_;
    }
    if (bytes_ <= bytes_max_) bytes_after_thinning_ = 0;
  }

  /// The oldest report that was not yet sent on this stream, or null. Valid until the queue is changed.
  const v1::AttemptReport* NextUnsent() const {
    return num_sent_ < entries_.size() ? &entries_[num_sent_].report : nullptr;
  }
  void MarkSent() { ++num_sent_; }

  /// A new stream: all that is not acknowledged is sent again.
  void ResendAll() { num_sent_ = 0; }

  size_t pending() const { return entries_.size(); }
  size_t bytes() const { return bytes_; }
  /// Reports that were removed by thinning, ever.
  int64_t num_dropped() const { return num_dropped_; }

 private:
  enum class Kind { kKept, kStep, kLayers, kLog };

  // A deque's node and a message's own fields; keeps a million tiny reports from being counted as nothing.
  static constexpr size_t kEntryOverhead = 128;

  struct Entry {
    v1::AttemptReport report;
    size_t bytes = 0;
  };

  static Kind KindOf(const v1::AttemptReport& report) {
    if (!report.has_event()) return Kind::kKept;
    switch (report.event().event_case()) {
      case v1::TrainerEvent::kStep:
        return Kind::kStep;
      case v1::TrainerEvent::kLayers:
        return Kind::kLayers;
      case v1::TrainerEvent::kLog:
        return Kind::kLog;
      default:
        return Kind::kKept;
    }
  }

  void Thin() {
    size_t num_logs = 0;
    for (const Entry& entry : entries_) num_logs += KindOf(entry.report) == Kind::kLog;
    std::deque<Entry> kept;
    size_t kept_sent = 0, step = 0, layers = 0, log = 0;
    for (size_t i = 0; i < entries_.size(); ++i) {
      bool is_dropped = false;
      switch (KindOf(entries_[i].report)) {
        case Kind::kKept:
          break;
        case Kind::kStep:
          is_dropped = step++ % 2 == 0;
          break;
        case Kind::kLayers:
          is_dropped = layers++ % 2 == 0;
          break;
        case Kind::kLog:
          is_dropped = log++ < num_logs / 2;
          break;
      }
      if (is_dropped) {
        bytes_ -= entries_[i].bytes;
        ++num_dropped_;
        continue;
      }
      if (i < num_sent_) ++kept_sent;
      kept.push_back(std::move(entries_[i]));
    }
    entries_ = std::move(kept);
    num_sent_ = kept_sent;
    bytes_after_thinning_ = bytes_ > bytes_max_ ? bytes_ : 0;
  }

  size_t bytes_max_;
  int64_t last_sequence_ = 0;
  std::deque<Entry> entries_;
  size_t num_sent_ = 0;  // Entries at the front that went down the current stream.
  size_t bytes_ = 0;
  size_t bytes_after_thinning_ = 0;  // Not 0: the last thinning did not get below the bound.
  int64_t num_dropped_ = 0;
};

}  // namespace normlab::agent
