// Small runs for tests of reports.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "cli/report/report.h"

namespace normlab::report::testing {

/// A run that succeeded with this validation loss.
inline RunRecord MakeRun(const std::map<std::string, std::string>& axes, double loss) {
  RunRecord record;
  v1::Run& run = record.run;
  run.mutable_axes()->insert(axes.begin(), axes.end());
  run.set_id("exp-0001.01");
  run.set_state(v1::SUCCEEDED);
  run.set_attempt(1);
  if (const auto scheme = axes.find("norm.scheme"); scheme != axes.end()) {
    run.mutable_spec()->mutable_norm()->set_scheme(scheme->second);
  }
  if (const auto seed = axes.find("seed"); seed != axes.end()) run.mutable_spec()->set_seed(std::stoll(seed->second));
  run.mutable_spec()->mutable_resources()->set_workers(1);
  run.mutable_progress()->mutable_eval()->set_loss(loss);
  return record;
}

/// One step report per loss, from step 1.
inline std::vector<v1::StepHistory> LossHistory(const std::vector<double>& losses) {
  std::vector<v1::StepHistory> history(losses.size());
  for (std::size_t i = 0; i < losses.size(); ++i) {
    history[i].set_step(static_cast<std::int64_t>(i + 1));
    history[i].mutable_report()->set_loss(losses[i]);
  }
  return history;
}

/// The same output variances by layer at each of `steps`.
inline std::vector<v1::StepHistory> LayerHistory(const std::vector<std::int64_t>& steps,
                                                 const std::vector<double>& variances) {
  std::vector<v1::StepHistory> history;
  for (const std::int64_t step : steps) {
    v1::StepHistory& entry = history.emplace_back();
    entry.set_step(step);
    for (const double variance : variances) {
      v1::LayerStats* layer = entry.mutable_layers()->add_layers();
      layer->set_output_variance(variance);
      layer->set_grad_norm(variance / 10);
    }
  }
  return history;
}

/// An analysis at `step`: layer l costs costs[l - 1] when it is removed from a model of loss 4, and distances grow with
/// `spread`.
inline v1::StepHistory AnalyzedStep(std::int64_t step, const std::vector<double>& costs, double spread) {
  v1::StepHistory entry;
  entry.set_step(step);
  v1::Analysis* analysis = entry.mutable_analysis();
  analysis->set_step(step);
  analysis->set_loss(4);
  const int num_layers = static_cast<int>(costs.size());
  for (int i = 0; i < num_layers; ++i) {
    v1::LayerAnalysis* layer = analysis->add_layers();
    layer->set_layer(i + 1);
    layer->set_loss_without(4 + costs[i]);
    layer->set_jacobian_distance_median(spread / (i + 1));
    for (int n = 1; n <= num_layers - i; ++n) layer->add_angular_distance(static_cast<float>(spread * n / num_layers));
  }
  return entry;
}

/// The event by which an attempt starts, of a trainer with this build on a CPU.
inline v1::Event StartedEvent(const std::string& build) {
  v1::Event event;
  event.set_state(v1::RUNNING);
  event.set_attempt(1);
  v1::AttemptEnvironment* environment = event.mutable_environment();
  environment->mutable_started()->set_torch_version("2.11.0");
  environment->mutable_started()->set_device("cpu");
  environment->set_worker_build(build);
  environment->set_worker_host("host-a");
  environment->set_coordinator_build("0.1.0+def");
  return event;
}

inline v1::Event EventAt(std::int64_t seconds, v1::RunState state) {
  v1::Event event;
  event.mutable_time()->set_seconds(seconds);
  event.set_state(state);
  return event;
}

}  // namespace normlab::report::testing
