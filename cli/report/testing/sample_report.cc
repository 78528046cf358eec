// Prints a page of three arms with three seeds each, one of which diverged, for a browser to look at.
#include <cmath>
#include <iostream>

#include "cli/report/render.h"
#include "cli/report/testing/sample_runs.h"

int main() {
  using namespace normlab::report;  // NOLINT(build/namespaces)
  Input input;
  input.experiment.set_id("exp-0001");
  input.experiment.set_owner("ada");
  input.experiment.mutable_spec()->set_name("three norms on a long name that has to wrap on a phone");
  input.experiment.set_num_runs(9);
  for (const auto& [scheme, loss] : {std::pair("pre_ln", 4.0), std::pair("lns", 3.9), std::pair("post_ln", 5.2)}) {
    for (const int seed : {1, 2, 3}) {
      RunRecord record = testing::MakeRun({{"norm.scheme", scheme}, {"seed", std::to_string(seed)}},
                                          loss + 0.02 * std::sin(7.0 * seed + loss));
      record.run.set_id("exp-0001.0" + std::to_string(input.runs.size() + 1));
      if (scheme == std::string("post_ln") && seed == 3) record.run.mutable_progress()->set_diverged(true);
      for (int step = 1; step <= 300; ++step) {
        normlab::v1::StepHistory& entry = record.history.emplace_back();
        entry.set_step(step);
        entry.mutable_report()->set_loss(loss + 4 * std::exp(-0.02 * step) + 0.05 * std::sin(seed + 0.5 * step));
        if (step % 50 == 0) {
          entry.mutable_eval()->set_loss(loss + 4 * std::exp(-0.02 * step));
          *entry.mutable_layers() = testing::LayerHistory({step}, {1, 1.5, 2.5, 4, 7, 12})[0].layers();
        }
      }
      if (scheme != std::string("post_ln")) {
        std::vector<double> costs(24);
        for (std::size_t i = 0; i < costs.size(); ++i) {
          costs[i] = 0.02 + (scheme == std::string("lns") ? 0.1 : 0.3 * std::exp(-0.3 * static_cast<double>(i)));
        }
        costs[5] = -0.01;
        record.history.push_back(testing::AnalyzedStep(300, costs, scheme == std::string("lns") ? 0.5 : 0.3));
      }
      record.events = {testing::StartedEvent(seed == 3 ? "0.1.0+0123abc" : "0.1.0+4567def")};
      input.runs.push_back(std::move(record));
    }
  }
  input.coordinator_build = input.report_build = "0.1.0+4567def";
  std::cout << ToHtml(*MakeReport(input, ""));
}
