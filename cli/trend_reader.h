// Reads the histories of runs beside a watch, for its sparklines.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "cli/client.h"
#include "cli/progress_view.h"

namespace normlab::cli {

/// One thread that asks for a run's new steps at a time, ten times a second at most, however many runs there are: one
/// that has been read to its end comes again after all others. Errors are passed over: the watch says what is wrong.
class TrendReader {
 public:
  /// `on_change` is called on the reader's thread with a run's trend.
  TrendReader(std::unique_ptr<Client> client, std::function<void(RunId run, const Trend& trend)> on_change);
  ~TrendReader();

  /// Ends the call in flight; nothing is read any more. From any thread.
  void Cancel();
  /// Reads what is still unread of the runs that are followed, without a pause, and ends at the first error or when
  /// cancelled. Nothing is read afterwards.
  void Finish();

  /// Which runs to read, with the step that each has come to; those that have nothing new are not asked for.
  void Follow(std::vector<std::pair<RunId, int64_t>> runs);

 private:
  void Work();
  /// The next run that has new steps, and the step that it has come to; nullopt if none has.
  std::optional<std::pair<RunId, int64_t>> Next();
  /// False if there was no answer.
  bool Read(RunId run, int64_t step);

  const std::unique_ptr<Client> client_;
  const std::function<void(RunId run, const Trend& trend)> on_change_;
  // The reader's thread only.
  TrendsById trends_;
  std::map<RunId, int64_t> seen_;  // The step that each was last said to have come to.

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::pair<RunId, int64_t>> runs_;  // Guarded by mutex_.
  size_t next_ = 0;                              // Guarded by mutex_.
  bool is_ending_ = false;                       // Guarded by mutex_. At the next look.
  bool is_finishing_ = false;                    // Guarded by mutex_. When all has been read.
  std::thread thread_;
};

}  // namespace normlab::cli
