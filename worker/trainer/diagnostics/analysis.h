#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/growth_fit.h"
#include "worker/trainer/diagnostics/stream_variance.h"

namespace normlab::trainer {

class Probe;

struct AnalysisOptions {
  // Which measurements.
  bool variance = true;
  bool angular_distance = true;
  bool layer_removal = true;
  bool gradients = true;
  bool jacobian = true;
  int jacobian_tokens = 64;
  int jacobian_probes = 4;
};

struct ParameterGradient {
  std::string name;
  int layer;  // 1-based block; 0 outside of blocks.
  double norm;
  double rms;  // norm / sqrt(elements)
};

/// What was measured; a part that was not asked for is empty. Vectors "by layer" have L elements, layer 1 first.
struct Analysis {
  int num_layers = 0;
  int64_t sequences = 0;
  int64_t seq_len = 0;
  int64_t tokens = 0;  // Positions with a target.
  double loss = 0;     // Nats per token, without auxiliary losses.

  std::vector<BoundarySummary> boundaries;    // Boundary 0 (the embedding) to L.
  std::vector<double> attention_mean_square;  // By layer: of what attention adds to the stream.
  std::vector<double> ffn_mean_square;        // By layer: of what the FFN adds to the stream.
  std::optional<GrowthFit> variance_growth;   // Of the blocks' mean variance.
  std::optional<GrowthFit> variance_growth_without_first;

  std::vector<std::vector<double>> angular_all;  // [l - 1][n - 1]
  std::vector<std::vector<double>> angular_last;

  std::vector<double> loss_without;  // By layer.

  std::vector<ParameterGradient> parameter_gradients;
  std::vector<double> layer_gradients;     // By layer: norm over all parameters of the block.
  std::vector<double> boundary_gradients;  // |dLoss/dx_l| for l = 1 to L + 1.

  std::vector<double> jacobian_mean;    // By layer: I_l over tokens.
  std::vector<double> jacobian_median;  // The same.
};

/// Told what is being done and how much of it is done, from 0 to 1.
using AnalysisProgress = std::function<void(const std::string& what, double fraction)>;

Analysis Analyze(Probe& probe, const AnalysisOptions& options, const AnalysisProgress& progress);

}  // namespace normlab::trainer
