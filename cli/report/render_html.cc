#include <algorithm>
#include <cmath>

#include "cli/format.h"
#include "cli/report/chart.h"
#include "cli/report/heat_map.h"
#include "cli/report/page_style.h"
#include "cli/report/render.h"
#include "cli/report/study.h"
#include "cli/report/tables.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::report {
namespace {

constexpr int kNumColors = 8;

std::string ColorOf(std::size_t arm) { return fmt::format("c{}", arm % kNumColors); }

/// The line of an arm: those beyond the number of colours have a marker as well.
ChartLine LineOf(const Arm& arm, std::size_t place, std::vector<ChartPoint> points) {
  return {arm.label, ColorOf(place), std::move(points), static_cast<int>(place / kNumColors)};
}

std::string LegendOf(const Chart& chart) {
  std::string html = "<ul class=\"legend\">";
  for (const ChartLine& line : chart.lines) {
    html += fmt::format("<li><i style=\"background:var(--{})\"></i>", line.color);
    if (line.marker > 0)
      html += fmt::format("<b style=\"color:var(--{})\">{}</b> ", line.color, MarkerSign(line.marker));
    html += EscapeHtml(line.label) + "</li>";
  }
  return html + "</ul>";
}

/// A figure with its caption; nothing for a chart without a point.
std::string FigureOf(const Chart& chart, const std::string& note, bool has_legend = true) {
  const std::string svg = ToSvg(chart);
  if (svg.empty()) return "";
  return fmt::format("<figure><figcaption><b>{}</b> {}</figcaption>{}{}</figure>\n", EscapeHtml(chart.title),
                     EscapeHtml(note), has_legend ? LegendOf(chart) : "", svg);
}

std::string TableOf(const TextTable& table) {
  if (table.rows.empty()) return "";
  const auto cell = [&](const char* tag, const std::string& text, std::size_t column) {
    return fmt::format("<{0}{1}>{2}</{0}>", tag, table.is_number[column] ? " class=\"number\"" : "", EscapeHtml(text));
  };
  std::string html = fmt::format("<h2>{}</h2>\n", EscapeHtml(table.title));
  if (!table.note.empty()) html += fmt::format("<p class=\"note\">{}</p>\n", EscapeHtml(table.note));
  html += "<div class=\"scroll\"><table><thead><tr>";
  for (std::size_t i = 0; i < table.header.size(); ++i) html += cell("th", table.header[i], i);
  html += "</tr></thead><tbody>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) html += cell("td", row[i], i);
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::vector<ChartPoint> PointsOf(const Curve& curve) {
  std::vector<ChartPoint> points;
  for (const Curve::Point& point : curve.points) points.push_back({point.step, point.mean, point.low, point.high});
  return points;
}

std::vector<ChartPoint> PointsOf(const LayerProfile& profile) {
  std::vector<ChartPoint> points;
  for (std::size_t i = 0; i < profile.values.size(); ++i) {
    const double value = profile.values[i];
    points.push_back({static_cast<double>(i + 1), value, value, value});
  }
  return points;
}

std::string LossFigures(const Report& report) {
  Chart train{.title = "Training loss", .x_title = "update", .y_title = "nats per token"};
  Chart validation{.title = "Validation loss", .x_title = "update", .y_title = "nats per token"};
  for (std::size_t i = 0; i < report.arms.size(); ++i) {
    const Arm& arm = report.arms[i];
    const Group& group = arm.groups[arm.best];
    train.lines.push_back(LineOf(arm, i, PointsOf(group.train_loss)));
    validation.lines.push_back(LineOf(arm, i, PointsOf(group.validation_loss)));
  }
  const std::string note = "Mean over seeds; the band is from the smallest to the largest seed.";
  return FigureOf(train, note) + FigureOf(validation, note);
}

std::string LayerFigures(const Report& report) {
  Chart variance{
      .title = "Output variance by layer at the end", .x_title = "layer", .y_title = "variance (log)", .is_log = true};
  Chart gradient{
      .title = "Gradient norm by layer at the end", .x_title = "layer", .y_title = "norm (log)", .is_log = true};
  for (std::size_t i = 0; i < report.arms.size(); ++i) {
    const Arm& arm = report.arms[i];
    const Group& group = arm.groups[arm.best];
    if (!group.variance.empty()) variance.lines.push_back(LineOf(arm, i, PointsOf(group.variance.back())));
    if (group.gradient_norm) gradient.lines.push_back(LineOf(arm, i, PointsOf(*group.gradient_norm)));
  }
  return FigureOf(variance, "Of the residual stream behind each layer, mean over tokens and seeds.") +
         FigureOf(gradient, "Over all parameters of a layer, before clipping, mean over seeds.");
}

/// One small chart per arm, all with the same axes, so that they can be compared by eye.
std::string VarianceOverTraining(const Report& report) {
  std::vector<Chart> charts;
  double low = INFINITY, high = -INFINITY;
  for (const Arm& arm : report.arms) {
    Chart chart{.title = arm.label, .x_title = "layer", .y_title = "variance (log)", .is_log = true};
    const auto& profiles = arm.groups[arm.best].variance;
    for (std::size_t i = 0; i < profiles.size(); ++i) {
      const std::size_t shade = profiles.size() == 1 ? 5 : i * 5 / (profiles.size() - 1);
      chart.lines.push_back(
          {fmt::format("update {}", profiles[i].step), fmt::format("s{}", shade), PointsOf(profiles[i])});
    }
    const auto [smallest, largest] = RangeOf(chart);
    if (largest > 0) low = std::min(low, smallest), high = std::max(high, largest);
    charts.push_back(std::move(chart));
  }
  std::string html;
  for (Chart& chart : charts) {
    chart.y_min = low, chart.y_max = high;
    html += FigureOf(chart, "");
  }
  if (html.empty()) return "";
  return "<h2>Output variance by layer over training</h2>\n<p class=\"note\">All with the same scale.</p>\n"
         "<div class=\"grid2\">\n" +
         html + "</div>\n";
}

std::vector<ChartPoint> PointsOf(const LayerRange& range) {
  std::vector<ChartPoint> points;
  for (std::size_t i = 0; i < range.mean.size(); ++i) {
    points.push_back({static_cast<double>(i + 1), range.mean[i], range.low[i], range.high[i]});
  }
  return points;
}

std::string StudyText(const LayerStudy& study) {
  return fmt::format("{} run{}, update {}.", study.num_runs, study.num_runs == 1 ? "" : "s",
                     fmt::join(study.steps, ", "));
}

/// A heat map per arm, all with the same colours.
std::string DistanceFigures(const Report& report) {
  std::vector<const Triangle*> triangles;
  for (const Arm& arm : report.arms) {
    const auto& study = arm.groups[arm.best].study;
    if (study) triangles.push_back(&study->distances);
  }
  const ColorScale scale = ScaleOf(triangles);
  std::string html;
  for (const Arm& arm : report.arms) {
    const auto& study = arm.groups[arm.best].study;
    if (!study || study->distances.empty()) continue;
    html += fmt::format("<figure><figcaption><b>{}</b> {}</figcaption>{}</figure>\n", EscapeHtml(arm.label),
                        StudyText(*study), HeatMapSvg(arm.label, study->distances, scale));
  }
  if (html.empty()) return "";
  return "<h2>Angular distance between layers</h2>\n<p class=\"note\">d(l, n) = arccos(cos(x_l, x_{l+n})) / π of the "
         "inputs of layer l and of the layer n further on (arXiv:2502.05795, eq. 1), raw values, mean over all "
         "positions and runs. Dark: the layers between change little. One colour scale for all arms:</p>\n" +
         ColorScaleSvg(scale) + "<div class=\"grid2\">\n" + html + "</div>\n";
}

/// Bars per arm, all with the same axis.
std::string RemovalFigures(const Report& report) {
  std::vector<std::pair<Chart, std::string>> charts;
  double low = 0, high = 0;
  for (std::size_t i = 0; i < report.arms.size(); ++i) {
    const Arm& arm = report.arms[i];
    const auto& study = arm.groups[arm.best].study;
    if (!study || study->removal.mean.empty()) continue;
    Chart chart{.title = arm.label, .x_title = "layer removed", .y_title = "loss increase, nats", .is_bars = true};
    chart.lines.push_back({arm.label, ColorOf(i), PointsOf(study->removal)});
    const auto [smallest, largest] = RangeOf(chart);
    low = std::min(low, smallest), high = std::max(high, largest);
    charts.emplace_back(std::move(chart), StudyText(*study));
  }
  std::string html;
  for (auto& [chart, note] : charts) {
    chart.y_min = low, chart.y_max = high;
    html += FigureOf(chart, note, /*has_legend=*/false);
  }
  if (html.empty()) return "";
  return TableOf(RemovalTable(report)) +
         "<p class=\"note\">All with the same scale; the line is from the smallest to the "
         "largest run.</p>\n<div class=\"grid2\">\n" +
         html + "</div>\n";
}

std::string JacobianFigure(const Report& report) {
  Chart chart{.title = "Distance of each layer's Jacobian from the identity",
              .x_title = "layer",
              .y_title = "median over tokens (log)",
              .is_log = true};
  for (std::size_t i = 0; i < report.arms.size(); ++i) {
    const auto& study = report.arms[i].groups[report.arms[i].best].study;
    if (!study || study->jacobian.mean.empty()) continue;
    chart.lines.push_back(LineOf(report.arms[i], i, PointsOf(study->jacobian)));
  }
  return FigureOf(chart,
                  "E |J v − v|² / |v|² for random v; near 0 the layer does nothing. The band is from the smallest "
                  "to the largest run.");
}

/// Which arms lack an analysis, and the command that makes it.
std::string AnalysisHint(const Report& report) {
  std::string commands;
  bool has_some = false;
  for (const Arm& arm : report.arms) {
    const Group& group = arm.groups[arm.best];
    has_some = has_some || group.study;
    if (group.run_to_analyze.empty()) continue;
    commands += fmt::format("normlab analyze {0} --out analysis/{0}    # {1}\n", group.run_to_analyze, arm.label);
  }
  if (commands.empty()) return "";
  return fmt::format(
      "<h2>{}</h2>\n<p>{} Each of these measures a run's newest checkpoint and adds it to the run's "
      "history; then make this report again.</p>\n<pre>{}</pre>\n",
      has_some ? "Arms without an analysis" : "Angular distance and layer removal",
      has_some ? "What is inside the layers of these arms has not been measured."
               : "No run of this experiment has been analyzed, so what is inside the layers is not known.",
      EscapeHtml(commands));
}

std::string EnvironmentSection(const Report& report) {
  const std::string html = TableOf(EnvironmentTable(report));
  if (!AreMixed(report.environments)) return html;
  return html +
         "<p class=\"warning\">These runs were not all trained by the same build, LibTorch and device: a difference "
         "between arms may be theirs.</p>\n";
}

std::string AxesText(const Report& report) {
  if (report.axes.empty()) return "<p>A single run: nothing was varied.</p>\n";
  std::string html = "<dl>";
  for (const Axis& axis : report.axes) {
    html += fmt::format("<dt>{}</dt><dd>{}</dd>", EscapeHtml(axis.name),
                        EscapeHtml(fmt::format("{}", fmt::join(axis.values, ", "))));
  }
  return html + "</dl>\n";
}

std::string Heading(const Report& report) {
  const v1::ExperimentSpec& spec = report.experiment.spec();
  std::string html = fmt::format("<h1>{}</h1>\n<p class=\"meta\">{} · submitted {} by {} · {} runs, {} seed{}</p>\n",
                                 EscapeHtml(spec.name()), report.experiment.id(),
                                 cli::UtcText(report.experiment.created_at()), EscapeHtml(report.experiment.owner()),
                                 report.experiment.num_runs(), report.num_seeds, report.num_seeds == 1 ? "" : "s");
  if (!spec.description().empty()) html += fmt::format("<p>{}</p>\n", EscapeHtml(spec.description()));
  if (!report.is_complete) {
    html += "<p class=\"warning\">Not all runs have ended: the numbers below will change.</p>\n";
  }
  if (AreMixed(report.environments)) {
    html += "<p class=\"warning\">Runs were trained by different versions or devices: see the end of the page.</p>\n";
  }
  if (report.num_seeds < 3) {
    html +=
        fmt::format("<p class=\"warning\">{} seed{}: differences between arms may be noise. Use three or more.</p>\n",
                    report.num_seeds, report.num_seeds == 1 ? "" : "s");
  }
  return html;
}

}  // namespace

std::string ToHtml(const Report& report) {
  std::string html = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{} – normlab</title>\n"
      "<style>{}</style>\n</head>\n<body>\n<main>\n",
      EscapeHtml(report.experiment.spec().name()), kPageStyle);
  html += Heading(report);
  html += "<h2>What was compared</h2>\n<p class=\"note\">The runs differ in these and in nothing else.</p>\n" +
          AxesText(report);
  html += TableOf(ResultTable(report));
  for (const TextTable& table : ComparisonTables(report)) html += TableOf(table);
  html += TableOf(RateTable(report));
  html += "<h2>Losses over training</h2>\n" + LossFigures(report);
  html += TableOf(LayerTable(report));
  html += LayerFigures(report);
  html += VarianceOverTraining(report);
  html += DistanceFigures(report) + RemovalFigures(report) + JacobianFigure(report) + AnalysisHint(report);
  html += TableOf(CostTable(report));
  html += TableOf(TroubleTable(report));
  html += EnvironmentSection(report);
  html += fmt::format(
      "<h2>How to run it again</h2>\n<p>Save this as <code>{0}.yaml</code> and call "
      "<code>normlab submit {0}.yaml</code>.</p>\n<details open><summary>The whole "
      "spec</summary><pre>{1}</pre></details>\n",
      EscapeHtml(report.experiment.id()), EscapeHtml(SpecYaml(report)));
  return html + "</main>\n</body>\n</html>\n";
}

}  // namespace normlab::report
