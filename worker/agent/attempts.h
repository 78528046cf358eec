// What this incarnation of the worker runs and has ended. Pure; one thread.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "common/ids.h"
#include "fmt/format.h"
#include "normlab/v1/worker.pb.h"

namespace normlab::agent {

/// One rank of one attempt.
struct AttemptKey {
  RunId run;
  int32_t attempt = 0;
  int32_t rank = 0;

  auto operator<=>(const AttemptKey&) const = default;

  /// "exp-0001.03.2.0": run, attempt, rank. Also the name of the attempt's folder.
  std::string ToString() const { return fmt::format("{}.{}.{}", run.ToString(), attempt, rank); }

  v1::AttemptRef ToProto() const {
    v1::AttemptRef ref;
    ref.set_run_id(run.ToString());
    ref.set_attempt(attempt);
    ref.set_rank(rank);
    return ref;
  }

  /// Nullopt if the run's id is not in its text form or a number is out of range; so a folder's name is always
  /// harmless.
  static std::optional<AttemptKey> FromProto(const v1::AttemptRef& ref) {
    const auto run = RunId::Parse(ref.run_id());
    if (!run || ref.attempt() < 1 || ref.rank() < 0) return std::nullopt;
    return AttemptKey{.run = *run, .attempt = ref.attempt(), .rank = ref.rank()};
  }
};

enum class StartDecision {
  kStart,
  kLives,  // It runs already.
  kEnded,  // It, or a later attempt of its run, ended in this incarnation.
  kBusy,   // Another one runs.
};

/// Makes starts idempotent: an attempt is started at most once per incarnation.
class Attempts {
 public:
  /// Remembers the ends of the last `runs_max` runs.
  explicit Attempts(size_t runs_max = 4096) : runs_max_(runs_max) {}

  StartDecision Decide(const AttemptKey& key) const {
    if (current_ == key) return StartDecision::kLives;
    if (HasEnded(key)) return StartDecision::kEnded;
    return current_ ? StartDecision::kBusy : StartDecision::kStart;
  }

  /// Requires that nothing runs.
  void Begin(const AttemptKey& key) { current_ = key; }

  /// `key` ended, or must never start. If it is the current one, nothing runs afterwards.
  void End(const AttemptKey& key) {
    if (current_ == key) current_.reset();
    auto [it, is_new] = ended_.try_emplace(key.run, key.attempt);
    it->second = std::max(it->second, key.attempt);
    if (!is_new) return;
    order_.push_back(key.run);
    if (order_.size() > runs_max_) {
      ended_.erase(order_.front());
      order_.pop_front();
    }
  }

  bool HasEnded(const AttemptKey& key) const {
    const auto it = ended_.find(key.run);
    return it != ended_.end() && key.attempt <= it->second;
  }

  const std::optional<AttemptKey>& current() const { return current_; }

 private:
  size_t runs_max_;
  std::optional<AttemptKey> current_;
  std::map<RunId, int32_t> ended_;  // Run -> its highest ended attempt.
  std::deque<RunId> order_;         // Keys of ended_, oldest first.
};

}  // namespace normlab::agent
