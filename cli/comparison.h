// What `normlab compare` computes: pure, from runs to rows.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/report/statistics.h"
#include "normlab/v1/run.pb.h"

namespace normlab::cli {

/// Runs that differ in nothing but the seed.
struct ComparedGroup {
  std::map<std::string, std::string> axes;  // All but seed.
  int runs = 0;
  int succeeded = 0;  // With finite loss.
  int diverged = 0;   // Ended with a non-finite loss.
  int failed = 0;
  int cancelled = 0;
  int unfinished = 0;
  /// Over the runs that succeeded; absent if there is none. Natural logarithm, per token.
  std::optional<report::Mean> validation_loss;
  std::optional<double> perplexity;  // exp of the mean loss.
  std::optional<double> tokens_per_second;
  /// Output variance of the first, the middle (the L/2-th, rounded up) and the last layer in the last layer report.
  struct Variance {
    int layer = 0;
    double value = 0;
  };
  std::vector<Variance> variances;  // Empty if nothing was reported.
};

/// Groups in order of validation loss, those without one last.
std::vector<ComparedGroup> CompareRuns(const std::vector<v1::Run>& runs);

/// "3/3 ok", "2/3 ok, 1 diverged".
std::string OutcomeText(const ComparedGroup& group);

}  // namespace normlab::cli
