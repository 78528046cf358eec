#include "cli/comparison.h"

#include <algorithm>
#include <cmath>

#include "cli/format.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

std::map<std::string, std::string> AxesButSeed(const v1::Run& run) {
  std::map<std::string, std::string> axes(run.axes().begin(), run.axes().end());
  axes.erase("seed");
  return axes;
}

/// Mean over the runs of the variance at three layers. Runs of one group have one depth, unless depth is no axis and
/// something is odd; then those of another depth than the first are left out.
std::vector<ComparedGroup::Variance> MeanVariances(const std::vector<const v1::Run*>& runs) {
  int num_layers = 0;
  std::map<int, std::vector<double>> values;
  for (const v1::Run* run : runs) {
    const auto& layers = run->progress().layers().layers();
    if (num_layers == 0) num_layers = layers.size();
    if (layers.empty() || layers.size() != num_layers) continue;
    for (const int layer : {1, (num_layers + 1) / 2, num_layers}) {
      values[layer].push_back(layers[layer - 1].output_variance());
    }
  }
  std::vector<ComparedGroup::Variance> means;
  for (const auto& [layer, all] : values) means.push_back({layer, report::MeanOf(all).value});
  return means;
}

void Count(const v1::Run& run, ComparedGroup* group) {
  ++group->runs;
  if (run.state() == v1::FAILED) {
    ++group->failed;
  } else if (run.state() == v1::CANCELLED) {
    ++group->cancelled;
  } else if (run.state() != v1::SUCCEEDED) {
    ++group->unfinished;
  } else if (HasDiverged(run)) {
    ++group->diverged;
  } else {
    ++group->succeeded;
  }
}

ComparedGroup Summarize(const std::map<std::string, std::string>& axes, const std::vector<const v1::Run*>& runs) {
  ComparedGroup group{.axes = axes};
  std::vector<double> losses, speeds;
  std::vector<const v1::Run*> good;
  for (const v1::Run* run : runs) {
    Count(*run, &group);
    if (run->state() != v1::SUCCEEDED || HasDiverged(*run)) continue;
    good.push_back(run);
    if (run->progress().has_eval()) losses.push_back(run->progress().eval().loss());
    if (run->progress().tokens_per_second() > 0) speeds.push_back(run->progress().tokens_per_second());
  }
  if (!losses.empty()) {
    group.validation_loss = report::MeanOf(losses);
    group.perplexity = std::exp(group.validation_loss->value);
  }
  if (!speeds.empty()) group.tokens_per_second = report::MeanOf(speeds).value;
  // A group with nothing good still shows what the layers looked like when it went wrong.
  group.variances = MeanVariances(good.empty() ? runs : good);
  return group;
}

}  // namespace

std::vector<ComparedGroup> CompareRuns(const std::vector<v1::Run>& runs) {
  std::map<std::map<std::string, std::string>, std::vector<const v1::Run*>> by_axes;
  for (const v1::Run& run : runs) by_axes[AxesButSeed(run)].push_back(&run);
  std::vector<ComparedGroup> groups;
  for (const auto& [axes, members] : by_axes) groups.push_back(Summarize(axes, members));
  std::stable_sort(groups.begin(), groups.end(), [](const ComparedGroup& a, const ComparedGroup& b) {
    if (a.validation_loss.has_value() != b.validation_loss.has_value()) return a.validation_loss.has_value();
    return a.validation_loss && a.validation_loss->value < b.validation_loss->value;
  });
  return groups;
}

std::string OutcomeText(const ComparedGroup& group) {
  std::string text = fmt::format("{}/{} ok", group.succeeded, group.runs);
  if (group.diverged > 0) text += fmt::format(", {} diverged", group.diverged);
  if (group.failed > 0) text += fmt::format(", {} failed", group.failed);
  if (group.cancelled > 0) text += fmt::format(", {} cancelled", group.cancelled);
  if (group.unfinished > 0) text += fmt::format(", {} not finished", group.unfinished);
  return text;
}

}  // namespace normlab::cli
