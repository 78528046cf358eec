#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "worker/trainer/train/checkpoint.h"

namespace normlab::trainer {

/// Writes checkpoints beside training: hashing, writing, syncing and renaming happen on one thread of low priority, one
/// checkpoint at a time. All methods belong to one other thread.
class CheckpointWriter {
 public:
  struct Outcome {
    int64_t step;
    std::optional<CheckpointSaved> saved;  // Durable. None: `error` says why.
    std::string error;
  };

  explicit CheckpointWriter(CheckpointFolder folder);
  /// Returns when what is being written is.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Returns at once. The arrays behind `content` may not change before the outcome was taken. REQUIRES: the outcome of
  /// the one before was taken.
  void Start(CheckpointContent content);

  /// The outcome of the write that was started last, once: none while it lasts, or if it was taken.
  std::optional<Outcome> Poll();
  /// As Poll, but returns when the write is over; none if none was started.
  std::optional<Outcome> Wait();

 private:
  void Run();
  Outcome Write(const CheckpointContent& content);

  CheckpointFolder folder_;  // Of the writing thread, from Start to the outcome.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<CheckpointContent> content_;  // Protected by mutex_, as all below.
  std::optional<Outcome> outcome_;
  bool is_writing_ = false;
  bool is_closing_ = false;
  std::thread thread_;
};

}  // namespace normlab::trainer
