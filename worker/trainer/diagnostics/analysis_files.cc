#include "worker/trainer/diagnostics/analysis_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <functional>
#include <system_error>
#include <utility>

#include "common/durable_file.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

ordered_json SummaryJson(const StreamSummary& summary) {
  return {{"variance_mean", summary.variance_mean},
          {"variance_median", summary.variance_median},
          {"mean_square", summary.mean_square},
          {"max_abs", summary.max_abs},
          {"tokens", summary.tokens}};
}

ordered_json FitJson(const std::optional<GrowthFit>& fit) {
  if (!fit) return nullptr;
  const auto curve = [](const char* formula, const char* rate, const CurveFit& fitted) {
    return ordered_json{{"formula", formula}, {"c", fitted.c}, {rate, fitted.rate}, {"r_squared", fitted.r_squared}};
  };
  return {{"power", curve("c l^p", "p", fit->power)}, {"exponential", curve("c e^(k l)", "k", fit->exponential)}};
}

/// The ratio of two boundaries' gradients, |dLoss/dx_l| / |dLoss/dx_{l+1}|.
double GradientRatio(const Analysis& analysis, int layer) {
  return analysis.boundary_gradients[layer - 1] / analysis.boundary_gradients[layer];
}

/// One column of layers.csv; `value` is called with layers 1 to L. Columns without data are left out.
struct Column {
  const char* name;
  bool is_there;
  std::function<double(int layer)> value;
};

std::vector<Column> LayerColumns(const Analysis& analysis) {
  const auto of = [](const std::vector<double>& values) {
    return [&values](int layer) { return values[static_cast<size_t>(layer) - 1]; };
  };
  const auto boundary = [&analysis](auto member, auto number) {
    return [&analysis, member, number](int layer) { return analysis.boundaries[layer].*member.*number; };
  };
  const auto ratio = [&analysis](const std::vector<double>& branch) {
    return [&analysis, &branch](int layer) {
      return std::sqrt(branch[layer - 1] / analysis.boundaries[layer - 1].all.mean_square);
    };
  };
  const bool has_variance = !analysis.boundaries.empty();
  const bool has_gradients = !analysis.layer_gradients.empty();
  constexpr auto kAll = &BoundarySummary::all, kRest = &BoundarySummary::without_first;
  return {
      {"variance_mean", has_variance, boundary(kAll, &StreamSummary::variance_mean)},
      {"variance_median", has_variance, boundary(kAll, &StreamSummary::variance_median)},
      {"mean_square", has_variance, boundary(kAll, &StreamSummary::mean_square)},
      {"max_abs", has_variance, boundary(kAll, &StreamSummary::max_abs)},
      {"variance_mean_without_first", has_variance, boundary(kRest, &StreamSummary::variance_mean)},
      {"variance_median_without_first", has_variance, boundary(kRest, &StreamSummary::variance_median)},
      {"mean_square_without_first", has_variance, boundary(kRest, &StreamSummary::mean_square)},
      {"max_abs_without_first", has_variance, boundary(kRest, &StreamSummary::max_abs)},
      {"attention_mean_square", has_variance, of(analysis.attention_mean_square)},
      {"ffn_mean_square", has_variance, of(analysis.ffn_mean_square)},
      {"attention_ratio", has_variance, ratio(analysis.attention_mean_square)},
      {"ffn_ratio", has_variance, ratio(analysis.ffn_mean_square)},
      {"angular_distance", !analysis.angular_all.empty(),
       [&analysis](int layer) { return analysis.angular_all[layer - 1][0]; }},
      {"loss_without", !analysis.loss_without.empty(), of(analysis.loss_without)},
      {"loss_delta", !analysis.loss_without.empty(),
       [&analysis](int layer) { return analysis.loss_without[layer - 1] - analysis.loss; }},
      {"gradient_norm", has_gradients, of(analysis.layer_gradients)},
      {"boundary_gradient_ratio", has_gradients, [&analysis](int layer) { return GradientRatio(analysis, layer); }},
      {"jacobian_identity_distance", !analysis.jacobian_mean.empty(), of(analysis.jacobian_mean)},
      {"jacobian_identity_distance_median", !analysis.jacobian_median.empty(), of(analysis.jacobian_median)},
  };
}

std::string LayersCsv(const Analysis& analysis) {
  std::vector<Column> columns;
  for (Column& column : LayerColumns(analysis)) {
    if (column.is_there) columns.push_back(std::move(column));
  }
  std::string text = "layer";
  for (const Column& column : columns) text += fmt::format(",{}", column.name);
  text += "\n";
  for (int layer = 1; layer <= analysis.num_layers; ++layer) {
    text += fmt::format("{}", layer);
    for (const Column& column : columns) text += fmt::format(",{}", column.value(layer));
    text += "\n";
  }
  return text;
}

std::string AngularCsv(const Analysis& analysis) {
  std::string text = "layer,n,all_positions,last_position\n";
  for (size_t l = 0; l < analysis.angular_all.size(); ++l) {
    for (size_t n = 0; n < analysis.angular_all[l].size(); ++n) {
      text += fmt::format("{},{},{},{}\n", l + 1, n + 1, analysis.angular_all[l][n], analysis.angular_last[l][n]);
    }
  }
  return text;
}

std::string GradientsCsv(const Analysis& analysis) {
  std::string text = "name,layer,norm,rms\n";
  for (const ParameterGradient& gradient : analysis.parameter_gradients) {
    text += fmt::format("{},{},{},{}\n", gradient.name, gradient.layer, gradient.norm, gradient.rms);
  }
  return text;
}

ordered_json LayersJson(const Analysis& analysis) {
  const std::vector<Column> columns = LayerColumns(analysis);
  ordered_json layers = ordered_json::array();
  for (int layer = 1; layer <= analysis.num_layers; ++layer) {
    ordered_json row = {{"layer", layer}};
    for (const Column& column : columns) {
      if (column.is_there) row[column.name] = column.value(layer);
    }
    layers.push_back(std::move(row));
  }
  return layers;
}

}  // namespace

ordered_json AnalysisJson(const AnalysisOrigin& origin, const Analysis& analysis) {
  ordered_json document = {{"format", "normlab-analysis-v1"}, {"source", origin.source},
                           {"checkpoint", origin.name},       {"step", origin.step},
                           {"scheme", origin.scheme},         {"dataset", origin.dataset},
                           {"sequences", analysis.sequences}, {"seq_len", analysis.seq_len},
                           {"tokens", analysis.tokens},       {"loss", analysis.loss},
                           {"layers", LayersJson(analysis)}};
  if (!analysis.boundaries.empty()) {
    document["embedding"] = {{"all", SummaryJson(analysis.boundaries[0].all)},
                             {"without_first", SummaryJson(analysis.boundaries[0].without_first)}};
    document["variance_growth"] = {{"all", FitJson(analysis.variance_growth)},
                                   {"without_first", FitJson(analysis.variance_growth_without_first)}};
  }
  if (!analysis.angular_all.empty()) {
    document["angular_distance"] = {{"all_positions", analysis.angular_all}, {"last_position", analysis.angular_last}};
  }
  if (!analysis.parameter_gradients.empty()) {
    ordered_json gradients = ordered_json::array();
    for (const ParameterGradient& gradient : analysis.parameter_gradients) {
      gradients.push_back(
          {{"name", gradient.name}, {"layer", gradient.layer}, {"norm", gradient.norm}, {"rms", gradient.rms}});
    }
    document["parameter_gradients"] = std::move(gradients);
    document["boundary_gradients"] = analysis.boundary_gradients;
  }
  return document;
}

std::vector<std::string> WriteAnalysis(const fs::path& folder, const AnalysisOrigin& origin, const Analysis& analysis) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw FileError(fmt::format("cannot create folder {}", folder.string()), error.value());
  std::vector<std::pair<std::string, std::string>> files = {
      {"analysis.json", AnalysisJson(origin, analysis).dump(1) + "\n"}, {"layers.csv", LayersCsv(analysis)}};
  if (!analysis.angular_all.empty()) files.emplace_back("angular_distance.csv", AngularCsv(analysis));
  if (!analysis.parameter_gradients.empty()) files.emplace_back("gradients.csv", GradientsCsv(analysis));
  std::vector<std::string> names;
  for (const auto& [name, text] : files) {
    WriteFileDurably(folder / name, text);
    names.push_back(name);
  }
  return names;
}

}  // namespace normlab::trainer
