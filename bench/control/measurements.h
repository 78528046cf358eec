#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/figures.h"

namespace normlab::bench {

/// Runs of the experiments that fill a queue or a store: as many as one request may make.
inline constexpr int kRunsPerExperiment = 10'000;

struct Options {
  std::string coordinator;
  std::string folder;
  std::string json;
  int rounds = 12;
  double round_seconds = 0.4;
  int clients = 64;
  int workers = 1000;
  int assignments = 300;
  int queued = 100'000;
  int ended = 1'000'000;
};

/// One scheduling pass over 100,000 queued runs and 10,000 workers, in this process: one that fills all workers, one
/// with gangs, one where nothing fits.
absl::StatusOr<std::vector<Figure>> MeasurePasses(const Options& options, const std::string& folder);

// The others start a coordinator of their own below `folder`.

/// Durable submits of one client and of many: per second, per second of the daemon's processor time, and how long one
/// takes. Syncs of the same disk take turns with them.
absl::StatusOr<std::vector<Figure>> MeasureSubmits(const Options& options, const std::string& folder);

/// From submit to assignment over real streams, and placements per second while many runs wait.
absl::StatusOr<std::vector<Figure>> MeasureAssignments(const Options& options, const std::string& folder);

/// What ended runs cost: submits with few and with many of them, a restart, memory; and cancelling many at once.
absl::StatusOr<std::vector<Figure>> MeasureScale(const Options& options, const std::string& folder);

}  // namespace normlab::bench
