#pragma once

#include <absl/time/time.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/simulation/coordinator.h"
#include "tests/simulation/history.h"
#include "tests/simulation/link.h"
#include "tests/simulation/observer.h"

namespace normlab::simulation {

/// What users may ask for in this simulation.
struct UserOptions {
  int world_size_max = 1;
  int labelled_workers = 0;  // Workers with gpu=h100.
  int runs_max = 20;         // In all.
};

/// A user behind a network that loses, delays and repeats requests: submits, cancels, requeues, holds, releases and
/// reprioritizes, and reads; asks again until it is told.
class Client {
 public:
  Client(Timeline& timeline, Dice dice, Observer& observer, History& history, Coordinator& coordinator,
         std::string name, const UserOptions& options, const FaultMix& mix);

  /// Asks again and again until `until`.
  void Begin(absl::Time until);
  /// The network loses nothing any more.
  void Mend() { loss_ = copies_ = 0; }
  bool is_idle() const { return !is_waiting_; }

 private:
  struct Call;
  using CallRef = std::shared_ptr<Call>;

  void Next();
  void Submit();
  void Change();
  void Look();
  void Start(History::Operation operation, engine::Command command);
  void Send(const CallRef& call);
  void SendCopy(const CallRef& call);
  void OnAnswer(const CallRef& call, const absl::StatusOr<engine::Reply>& reply, std::vector<History::Done> done,
                int64_t revision);
  absl::Duration Delay() { return dice_.Between(absl::Microseconds(100), delay_max_); }

  Timeline& timeline_;
  Dice dice_;
  Observer& observer_;
  History& history_;
  Coordinator& coordinator_;
  const std::string name_;
  const UserOptions options_;
  double loss_;
  double copies_;
  const absl::Duration delay_max_;
  absl::Time until_;
  bool is_waiting_ = false;
  int num_requests_ = 0;
};

}  // namespace normlab::simulation
