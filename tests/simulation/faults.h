#pragma once

#include <absl/time/time.h>

#include <array>
#include <cstdint>

#include "tests/simulation/dice.h"

namespace normlab::simulation {

/// Everything that can go wrong.
enum class Fault {
  kReset,          // A worker's connection breaks; what was under way is lost in part.
  kPartitionUp,    // For a while nothing comes from a worker.
  kPartitionDown,  // For a while nothing comes to a worker.
  kPartitionBoth,
  kCoordinatorCrash,  // At any moment, so also between a commit and its replies.
  kCommitCrash,       // Surely in the middle of a commit.
  kSlowCommit,
  kFailedCommit,  // fsync fails.
  kAgentCrash,
  kAgentFreeze,  // The agent stands still, its trainer goes on.
  kHostFreeze,   // Both stand still, maybe until after the lease.
  kTrainerCrash,
  kDrain,
  kCordon,
  kClockSet,  // The coordinator's host has another time of day after a restart.
};
inline constexpr int kNumFaults = 15;
inline constexpr const char* kFaultNames[kNumFaults] = {
    "reset",        "partition-up",  "partition-down", "partition-both", "coordinator-crash",
    "commit-crash", "slow-commit",   "failed-commit",  "agent-crash",    "agent-freeze",
    "host-freeze",  "trainer-crash", "drain",          "cordon",         "clock-set"};

/// A bug that is put in on purpose, to see that the rules find it.
enum class Plant {
  kNone,
  kReplyBeforeCommit,    // The coordinator says what is not on the disk yet.
  kLostWrite,            // A crash takes the last batch, although it was synced.
  kTornBatch,            // A crash takes half of a batch.
  kLeaseNotEnded,        // Workers' steady clocks are slow, so that they hold on to leases that are over.
  kLeaseNotWaited,       // A worker whose stream ends is held to be gone.
  kRequestIdForgotten,   // A client that asks again asks for something new.
  kAcknowledgesTooMuch,  // Reports are acknowledged that were never taken in.
  kLogTailForgotten,     // A new process does not know which lines it has.
};
inline constexpr int kNumPlants = 9;
inline constexpr const char* kPlantNames[kNumPlants] = {"none",
                                                        "reply-before-commit",
                                                        "lost-write",
                                                        "torn-batch",
                                                        "lease-not-ended",
                                                        "lease-not-waited",
                                                        "request-id-forgotten",
                                                        "acknowledges-too-much",
                                                        "log-tail-forgotten"};

/// What goes wrong in one simulation. Each seed switches kinds of faults on and off and draws how often they come:
/// where everything fails at once, much is never reached (Groce et al., Swarm Testing, ISSTA 2012).
struct FaultMix {
  std::array<absl::Duration, kNumFaults> mean_interval;  // Zero: never.
  absl::Duration delay_max;                              // Of a message.
  double request_loss = 0;                               // Of clients' requests and of their answers.
  double request_copies = 0;                             // Requests that arrive twice.

  static FaultMix Draw(Dice& dice) {
    FaultMix mix;
    for (absl::Duration& mean : mix.mean_interval) {
      const absl::Duration drawn = dice.Between(absl::Seconds(8), absl::Seconds(60));
      mean = dice.Chance(0.4) ? drawn : absl::ZeroDuration();
    }
    mix.delay_max = dice.Chance(0.5) ? dice.Between(absl::Milliseconds(1), absl::Seconds(3)) : absl::Milliseconds(5);
    mix.request_loss = dice.Chance(0.5) ? 0.3 * dice.Real() : 0;
    mix.request_copies = dice.Chance(0.5) ? 0.3 * dice.Real() : 0;
    return mix;
  }
};

}  // namespace normlab::simulation
