#pragma once

#include <cstdint>

// Loops over plain float32 memory that every update runs over all parameters. No torch, no threads. An element's result
// depends on nothing beside it, so that splitting a range among threads changes no bit.
namespace normlab::trainer {

/// What is rounded to bfloat16 (to nearest, ties to even) when it is stored. Arithmetic is float32 all the same.
enum class Rounding {
  kNone,
  kWeights,  // What the model reads; `master` keeps the full weight.
  kAll,      // Weights, gradients and moments.
};

/// One update of a range by Adam (arXiv:1412.6980) or AdamW (arXiv:1711.05101), with g the scaled gradient:
///   g += l2 w;   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
///   w = weight_factor w - step_size m / (sqrt(v) / root_correction + eps)
struct AdamRange {
  int64_t count;
  float* weights;          // What the model reads.
  float* master;           // Null unless rounding is kWeights: the weights before rounding.
  const float* gradients;  // Not written.
  float* exp_avg;          // m
  float* exp_avg_sq;       // v
  float grad_scale;
  float l2;             // Adam's decay, which goes through the moments; 0 for AdamW.
  float weight_factor;  // AdamW's decay, 1 - lr * weight_decay; 1 for Adam.
  float beta1;
  float beta2;
  float step_size;        // lr / (1 - beta1^t)
  float root_correction;  // sqrt(1 - beta2^t)
  float eps;
  Rounding rounding;
};

void AdamUpdate(const AdamRange& range);

/// Sum of squares in float64, in an order that `count` alone decides.
double SumOfSquares(const float* values, int64_t count);

/// Rounds in place to bfloat16.
void RoundToBfloat16(float* values, int64_t count);

}  // namespace normlab::trainer
