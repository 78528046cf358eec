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

inline v1::Event EventAt(std::int64_t seconds, v1::RunState state) {
  v1::Event event;
  event.mutable_time()->set_seconds(seconds);
  event.set_state(state);
  return event;
}

}  // namespace normlab::report::testing
