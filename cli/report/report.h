// What a report says, as plain numbers: pure, from what the coordinator has stored. Rendering is elsewhere.
//
// Words: an arm is what the experiment compares (all axes but seed and learning rate); a group is the runs of one arm
// at one learning rate, which differ in nothing but the seed. An arm is judged by its best group; with a learning rate
// axis the groups of every rate are compared as well, because a verdict at one rate may be the rate's.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/report/statistics.h"
#include "normlab/v1/experiment.pb.h"
#include "normlab/v1/run.pb.h"

namespace normlab::report {

/// One run with everything that is stored about it.
struct RunRecord {
  v1::Run run;
  std::vector<v1::StepHistory> history;  // In order of step.
  std::vector<v1::Event> events;         // Oldest first.
  bool has_events_expired = false;       // Retention removed events, if not all of them.
};

struct Input {
  v1::Experiment experiment;
  std::vector<RunRecord> runs;    // In order of id.
  std::string coordinator_build;  // Of now, as the programs below.
  std::string report_build;
};

/// A quantity over training, mean over seeds.
struct Curve {
  struct Point {
    double step = 0;
    double mean = 0;
    double low = 0;  // Smallest and largest seed.
    double high = 0;
  };
  std::vector<Point> points;
};

/// A quantity by layer at one step, mean over seeds; values[l - 1].
struct LayerProfile {
  std::int64_t step = 0;
  std::vector<double> values;
};

/// A quantity by layer, mean over the runs that were analyzed, with the smallest and the largest of them.
struct LayerRange {
  std::vector<double> mean;
  std::vector<double> low;
  std::vector<double> high;
};

/// What `normlab analyze` found out about runs that differ in nothing but the seed: each one's newest analysis. What
/// was not measured of all of them is empty.
struct LayerStudy {
  int num_runs = 0;
  std::vector<std::int64_t> steps;             // Whose checkpoints were analyzed, ascending.
  LayerRange removal;                          // Loss without the layer minus the loss, nats per token.
  LayerRange jacobian;                         // Median distance of the layer's Jacobian from the identity.
  std::vector<std::vector<double>> distances;  // Angular, [l - 1][n - 1], n = 1 to L + 1 - l; mean over runs.
};

/// What runs were made with; attempts with the same are one.
struct Environment {
  std::string worker_build;
  std::string torch_version;
  std::string device;
  std::string worker_host;
  std::string coordinator_build;
  int attempts = 0;
  std::vector<std::string> runs;  // In order of id.
};

struct RunSummary {
  std::string id;
  std::string outcome;  // "succeeded", "diverged", "failed", ...
  std::optional<double> loss;
  int attempts = 0;
  std::optional<double> worker_hours;  // Time that gangs were reserved, times workers; nullopt if events are gone.
  std::int64_t tokens = 0;
  std::string reason;  // Why it ended, if not well, or why its last attempt but one did.
};

struct Group {
  std::string lr;                              // As in the matrix; empty without a learning rate axis.
  std::map<std::string, double> loss_by_seed;  // Final validation loss of runs that succeeded and did not diverge.
  std::optional<Mean> loss;
  std::optional<double> perplexity;  // exp of the mean loss.
  int num_runs = 0;
  int num_diverged = 0;
  std::vector<RunSummary> runs;
  Curve train_loss;
  Curve validation_loss;
  std::vector<LayerProfile> variance;         // A few steps over training, first to last.
  std::optional<LayerProfile> gradient_norm;  // At the last layer report.
  std::optional<LayerStudy> study;
  std::string run_to_analyze;  // That would make a study; empty if there is one, or no run ended well.
};

struct Arm {
  std::string label;          // "lns", or "model.num_layers=24 norm.scheme=lns" with several axes.
  std::string norm;           // Likewise of the axes below "norm." alone.
  std::string setting;        // Likewise of all others, as pairs; empty without.
  std::vector<Group> groups;  // By learning rate, ascending.
  std::size_t best = 0;       // Index of the group with the smallest mean loss among those where most runs ended well.
};

/// Arm against the baseline, paired by seed.
struct Comparison {
  std::string arm;
  std::string baseline;     // The arm that it is compared with.
  std::string lr;           // The arm's learning rate; empty without an axis.
  std::string baseline_lr;  // The baseline's.
  PairedTest test;          // loss(arm) - loss(baseline): negative is better than the baseline.
  std::optional<double> holm_p;
  int unpaired = 0;  // Seeds that count for one of the two only.
};

/// Comparisons that are corrected together.
struct ComparisonFamily {
  std::string title;  // "Each arm at its best learning rate", "At learning rate 0.001".
  std::vector<Comparison> comparisons;
};

/// A quantity that the runs differ in, with its values in order of the runs.
struct Axis {
  std::string name;
  std::vector<std::string> values;
};

struct Report {
  v1::Experiment experiment;
  std::vector<Axis> axes;
  std::string baseline;                     // An arm, or the norm of one arm in each setting.
  std::vector<std::string> shared_axes;     // In which an arm and its baseline agree: those of the settings.
  std::vector<std::string> learning_rates;  // Empty without such an axis.
  int num_seeds = 0;                        // Different seeds.
  std::vector<Arm> arms;                    // Best first; those without a loss last.
  std::vector<ComparisonFamily> families;
  std::vector<Environment> environments;  // In order of the first run.
  int attempts_unknown = 0;               // Whose environment was not stored, or was removed by retention.
  std::string coordinator_build;
  std::string report_build;
  bool is_complete = true;  // Every run has ended.
};

/// `baseline` is a norm, and then an arm is compared with the one that has this norm and agrees in all other axes
/// (depth, data, ...), or one whole arm. INVALID_ARGUMENT if it is neither (with the nearest), or the experiment has no
/// runs. An empty baseline means pre_ln, or the first arm of the matrix if there is no such.
absl::StatusOr<Report> MakeReport(const Input& input, const std::string& baseline);

}  // namespace normlab::report
