#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "worker/trainer/diagnostics/stack.h"

namespace normlab::trainer {

/// How large the stream is at one boundary, over tokens x in R^d.
struct StreamSummary {
  double variance_mean;    // Mean over tokens of mean_d(x^2) - mean_d(x)^2.
  double variance_median;  // Median over tokens of the same: one token of huge activations does not move it.
  double mean_square;      // Mean over tokens of mean_d(x^2).
  double max_abs;
  int64_t tokens;
};

struct BoundarySummary {
  StreamSummary all;
  StreamSummary without_first;  // Without the first position of each sequence, where huge activations gather.
};

/// Collects the stream's variance at boundaries 0 (the embedding) to L (behind the last block), in float64.
class StreamVariance {
 public:
  explicit StreamVariance(int num_layers) : boundaries_(static_cast<size_t>(num_layers) + 1) {}

  /// `states`: x_1 to x_{L+1}, as StreamStates gives them.
  void Add(const std::vector<at::Tensor>& states, const ProbeBatch& batch);

  /// By boundary; boundary l is the output of block l.
  std::vector<BoundarySummary> Summarize() const;

 private:
  struct Values {
    std::vector<float> variances;  // Of each token.
    double mean_square_sum = 0;
    double max_abs = 0;
  };
  struct Boundary {
    Values first;
    Values rest;
  };
  static void AddTo(Values* values, const at::Tensor& x);
  static StreamSummary Summary(const std::vector<const Values*>& parts);

  std::vector<Boundary> boundaries_;
};

}  // namespace normlab::trainer
