#include "worker/trainer/diagnostics/analysis.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "worker/trainer/diagnostics/angular_distance.h"
#include "worker/trainer/diagnostics/gradient_norms.h"
#include "worker/trainer/diagnostics/jacobian.h"
#include "worker/trainer/diagnostics/layer_removal.h"
#include "worker/trainer/diagnostics/probe.h"

namespace normlab::trainer {
namespace {

/// Mean squares of both branches, over the tokens with a target.
void MeasureBranches(Probe& probe, Analysis* analysis, const AnalysisProgress& progress) {
  const c10::NoGradGuard no_grad;
  analysis->attention_mean_square.assign(probe.num_layers(), 0);
  analysis->ffn_mean_square.assign(probe.num_layers(), 0);
  double tokens = 0;
  for (int64_t i = 0; i < probe.num_batches(); ++i) {
    progress("branches", static_cast<double>(i) / static_cast<double>(probe.num_batches()));
    const ProbeBatch batch = probe.Batch(i);
    LayerForwardStats stats;
    probe.model().Loss(batch.inputs, batch.targets, &stats);
    const auto weight = batch.HasTarget().sum().item<double>();
    for (size_t layer = 0; layer < stats.blocks.size(); ++layer) {
      analysis->attention_mean_square[layer] += weight * stats.blocks[layer].attention.mean_square;
      analysis->ffn_mean_square[layer] += weight * stats.blocks[layer].ffn.mean_square;
    }
    tokens += weight;
  }
  for (double& value : analysis->attention_mean_square) value /= tokens;
  for (double& value : analysis->ffn_mean_square) value /= tokens;
}

/// Variance, angles and losses without a layer, from one forward of each batch.
void MeasureStream(Probe& probe, const AnalysisOptions& options, Analysis* analysis, const AnalysisProgress& progress) {
  const BlockStack stack = probe.Stack();
  StreamVariance variance(probe.num_layers());
  AngularDistance angles(probe.num_layers());
  LayerRemoval removal(probe.num_layers());
  double loss_sum = 0;
  for (int64_t i = 0; i < probe.num_batches(); ++i) {
    progress(options.layer_removal ? "stream and layer removal" : "stream",
             static_cast<double>(i) / static_cast<double>(probe.num_batches()));
    const ProbeBatch batch = probe.Batch(i);
    const std::vector<at::Tensor> states = StreamStates(stack, batch);
    const int64_t targets = batch.HasTarget().sum().item<int64_t>();
    {
      const c10::NoGradGuard no_grad;
      loss_sum += static_cast<double>(targets) * stack.loss(states.back(), batch.targets).item<double>();
    }
    analysis->tokens += targets;
    if (options.variance) variance.Add(states, batch);
    if (options.angular_distance) angles.Add(states, batch);
    if (options.layer_removal) removal.Add(stack, states, batch);
  }
  analysis->loss = loss_sum / static_cast<double>(analysis->tokens);
  if (options.variance) {
    analysis->boundaries = variance.Summarize();
    std::vector<double> all, without_first;
    for (int layer = 1; layer <= probe.num_layers(); ++layer) {
      all.push_back(analysis->boundaries[layer].all.variance_mean);
      without_first.push_back(analysis->boundaries[layer].without_first.variance_mean);
    }
    analysis->variance_growth = FitGrowth(all);
    analysis->variance_growth_without_first = FitGrowth(without_first);
  }
  if (options.angular_distance) {
    analysis->angular_all = angles.AllPositions();
    analysis->angular_last = angles.LastPosition();
  }
  for (int layer = 1; options.layer_removal && layer <= probe.num_layers(); ++layer) {
    analysis->loss_without.push_back(removal.LossWithout(layer));
  }
}

void MeasureGradients(Probe& probe, Analysis* analysis, const AnalysisProgress& progress) {
  const BlockStack stack = probe.Stack();
  const std::vector<Parameter>& parameters = probe.model().parameters();
  std::vector<at::Tensor> tensors;
  for (const Parameter& parameter : parameters) tensors.push_back(parameter.tensor);
  GradientNorms norms(tensors, probe.num_layers(), analysis->tokens);
  for (int64_t i = 0; i < probe.num_batches(); ++i) {
    progress("gradients", static_cast<double>(i) / static_cast<double>(probe.num_batches()));
    norms.Add(stack, probe.Batch(i));
  }
  const std::vector<double> values = norms.OfParameters();
  std::vector<double> layer_squares(static_cast<size_t>(probe.num_layers()), 0.0);
  for (size_t i = 0; i < parameters.size(); ++i) {
    analysis->parameter_gradients.push_back(
        {.name = parameters[i].name,
         .layer = parameters[i].layer,
         .norm = values[i],
         .rms = values[i] / std::sqrt(static_cast<double>(parameters[i].tensor.numel()))});
    if (parameters[i].layer > 0) layer_squares[parameters[i].layer - 1] += values[i] * values[i];
  }
  for (const double square : layer_squares) analysis->layer_gradients.push_back(std::sqrt(square));
  analysis->boundary_gradients = norms.OfBoundaries();
}

}  // namespace

Analysis Analyze(Probe& probe, const AnalysisOptions& options, const AnalysisProgress& progress) {
  Analysis analysis{.num_layers = probe.num_layers(), .sequences = probe.num_sequences(), .seq_len = probe.seq_len()};
  MeasureStream(probe, options, &analysis, progress);
  if (options.variance) MeasureBranches(probe, &analysis, progress);
  if (options.gradients) MeasureGradients(probe, &analysis, progress);
  if (options.jacobian) {
    progress("Jacobians", 0);
    const JacobianOptions jacobian{.tokens = options.jacobian_tokens, .probes = options.jacobian_probes, .seed = 0};
    for (const IdentityDistance& distance : JacobianIdentityDistances(probe.Stack(), probe.Batch(0), jacobian)) {
      analysis.jacobian_mean.push_back(distance.mean);
      analysis.jacobian_median.push_back(distance.median);
    }
  }
  return analysis;
}

}  // namespace normlab::trainer
