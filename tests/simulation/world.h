#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/simulation/client.h"
#include "tests/simulation/coordinator.h"
#include "tests/simulation/faults.h"
#include "tests/simulation/history.h"
#include "tests/simulation/observer.h"
#include "tests/simulation/rules.h"
#include "tests/simulation/watcher.h"
#include "tests/simulation/worker.h"

namespace normlab::simulation {

struct Outcome {
  std::string broken;        // The first rule that was broken, or empty.
  std::string trace;         // The last lines before, and how everything stood; only if it was asked for.
  uint64_t fingerprint = 0;  // The same for every run of one seed.
  Coverage coverage;
};

/// A coordinator, workers, users, a disk and a network. All that happens follows from the seed.
Outcome Simulate(uint64_t seed, bool traces, Plant plant = Plant::kNone);

}  // namespace normlab::simulation
