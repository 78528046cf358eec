#pragma once

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "coordinator/engine/run_state.h"
#include "tests/simulation/faults.h"
#include "tests/simulation/timeline.h"

namespace normlab::simulation {

/// What simulations come to, so that one which shows little is seen.
struct Coverage {
  std::set<std::pair<engine::RunState, engine::RunState>> moves;
  std::array<int64_t, kNumFaults> faults{};
  int64_t lost_commits = 0;  // Batches that a crash took, with the replies that waited for them.
  int64_t log_lines = 0;     // Stored at the end.
  int64_t kept_commits = 0;  // Batches that a crash left on the disk, without their replies.
  int64_t failed_commits = 0;
  int64_t killed_trainers = 0;
  int64_t restarts = 0;
  int64_t leases_lost = 0;
  int64_t attempts = 0;
  int64_t preemptions = 0;
  int64_t acknowledged = 0;  // Operations of clients.
  int64_t unanswered = 0;
  int64_t reads = 0;
  int64_t resyncs = 0;   // Watches that began from all runs as they are.
  int64_t resumes = 0;   // Watches that went on from a revision.
  int64_t overruns = 0;  // Watches that fell behind what is kept.
  int64_t seconds = 0;   // Of virtual time.

  void Add(const Coverage& other);
};

/// Writes down what happens and the first rule that is broken.
class Observer {
 public:
  Observer(const Timeline& timeline, bool traces, Plant plant) : plant(plant), timeline_(timeline), traces_(traces) {}

  /// A line of the trace. Formats only if somebody wants it; the fingerprint takes in the time and the line's kind.
  template <typename... Args>
  void Trace(std::string_view format, const Args&... args) {
    Mix(absl::ToUnixMicros(timeline_.now()));
    Mix(static_cast<int64_t>(format.size()) * 31 + format[format.size() / 2]);
    if (!traces_) return;
    lines_.push_back(fmt::format("{:9.3f} {}", absl::ToDoubleSeconds(timeline_.now() - start_),
                                 fmt::format(fmt::runtime(format), args...)));
    if (lines_.size() > kLinesMax) lines_.pop_front();
  }

  /// Only the first one counts: what follows may follow from it.
  template <typename... Args>
  void Break(std::string_view format, const Args&... args) {
    if (!broken_.empty()) return;
    broken_ = fmt::format(fmt::runtime(format), args...);
    Trace("BROKEN: {}", broken_);
  }

  void Mix(int64_t number) { fingerprint_ = (fingerprint_ ^ static_cast<uint64_t>(number)) * 0x100000001b3; }

  const std::string& broken() const { return broken_; }
  uint64_t fingerprint() const { return fingerprint_; }
  std::string trace() const {
    std::string text;
    for (const std::string& line : lines_) text += line + "\n";
    return text;
  }

  const Plant plant;
  Coverage coverage;

 private:
  static constexpr size_t kLinesMax = 2000;

  const Timeline& timeline_;
  const absl::Time start_ = timeline_.now();
  const bool traces_;
  std::deque<std::string> lines_;
  std::string broken_;
  uint64_t fingerprint_ = 0xcbf29ce484222325;
};

}  // namespace normlab::simulation
