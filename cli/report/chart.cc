#include "cli/report/chart.h"

#include <algorithm>
#include <cmath>

#include "cli/units.h"
#include "fmt/format.h"

namespace normlab::report {
namespace {

constexpr double kWidth = 520, kHeight = 280;
constexpr double kLeft = 58, kRight = 12, kTop = 12, kBottom = 44;

/// A quantity along one side of the plot, possibly by its logarithm.
struct Scale {
  double min, max;  // Of the data, as log10 if is_log.
  bool is_log;
  double from, to;  // In pixels.

  double operator()(double value) const {
    const double place = is_log ? std::log10(value) : value;
    return from + (place - min) / (max - min) * (to - from);
  }
};

/// The shapes of markers 1, 2, ..., from their middle.
struct Marker {
  const char* sign;
  const char* path;
};
constexpr Marker kMarkers[] = {{"●", "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z"},
                               {"■", "m-3.5-3.5h7v7h-7z"},
                               {"▲", "m0-4.5l4.5 8h-9z"},
                               {"◆", "m0-5l5 5l-5 5l-5-5z"}};
constexpr std::size_t kMarkersOfALine = 8;

const Marker& MarkerOf(int marker) { return kMarkers[static_cast<std::size_t>(marker - 1) % std::size(kMarkers)]; }

bool IsShown(const Chart& chart, double value) { return std::isfinite(value) && (!chart.is_log || value > 0); }

Scale MakeScale(double low, double high, bool is_log, double from, double to) {
  Scale scale = {is_log ? std::log10(low) : low, is_log ? std::log10(high) : high, is_log, from, to};
  // A flat line stands in the middle.
  const double pad = scale.max > scale.min ? 0.04 * (scale.max - scale.min) : 0.5;
  scale.min -= pad;
  scale.max += pad;
  return scale;
}

/// 1, 2 or 5 times a power of ten: about `count` of them inside the scale.
std::vector<double> LinearTicks(double min, double max, int count) {
  const double rough = (max - min) / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double unit = rough / power < 1.5 ? 1 : rough / power < 3.5 ? 2 : rough / power < 7.5 ? 5 : 10;
  std::vector<double> ticks;
  for (double i = std::ceil(min / (unit * power)); i * unit * power <= max; ++i) ticks.push_back(i * unit * power);
  return ticks;
}

std::vector<double> LogTicks(double min, double max) {
  std::vector<double> ticks;
  const double decades = max - min;
  const int stride = std::max(1, static_cast<int>(std::ceil(decades / 6)));
  for (int power = static_cast<int>(std::floor(min)); power <= std::ceil(max); ++power) {
    for (const double digit : {1.0, 2.0, 5.0}) {
      if (digit != 1 && decades > 2.2) continue;
      if (digit == 1 && power % stride != 0) continue;
      const double place = power + std::log10(digit);
      if (place >= min && place <= max) ticks.push_back(digit * std::pow(10, power));
    }
  }
  return ticks;
}

std::string TickText(double value) {
  if (value == 0) return "0";  // Also for -0.
  const double size = std::abs(value);
  if (size >= 10000) return cli::CountText(value);
  return size < 1e-3 ? fmt::format("{:.0e}", value) : fmt::format("{:.4g}", value);
}

void DrawAxes(const Chart& chart, const Scale& x, const Scale& y, std::string* svg) {
  for (const double tick : chart.is_log ? LogTicks(y.min, y.max) : LinearTicks(y.min, y.max, 5)) {
    *svg += fmt::format(R"(<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>)", kLeft,
                        kWidth - kRight, y(tick), y(tick));
    *svg += fmt::format(R"(<text class="tick" text-anchor="end" x="{:.1f}" y="{:.1f}">{}</text>)", kLeft - 6,
                        y(tick) + 4, TickText(tick));
  }
  for (const double tick : LinearTicks(x.min, x.max, 6)) {
    // Steps and layers are whole, and layers begin at 1.
    if (tick != std::floor(tick) || (chart.is_bars && tick < 1)) continue;
    *svg += fmt::format(R"(<text class="tick" text-anchor="middle" x="{:.1f}" y="{:.1f}">{}</text>)", x(tick),
                        kHeight - kBottom + 16, TickText(tick));
  }
  *svg += fmt::format(R"(<line class="axis" x1="{0:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{2:.1f}"/>)", kLeft,
                      kWidth - kRight, kHeight - kBottom);
  *svg += fmt::format(R"(<text class="label" text-anchor="middle" x="{:.1f}" y="{:.1f}">{}</text>)",
                      (kLeft + kWidth - kRight) / 2, kHeight - 8, EscapeHtml(chart.x_title));
  *svg += fmt::format(
      R"svg(<text class="label" text-anchor="middle" transform="translate(14 {:.1f}) rotate(-90)">{}</text>)svg",
      (kTop + kHeight - kBottom) / 2, EscapeHtml(chart.y_title));
}

void DrawMarkers(const ChartLine& line, const std::vector<const ChartPoint*>& points, const Scale& x, const Scale& y,
                 std::string* svg) {
  const std::size_t count = std::min(kMarkersOfALine, points.size());
  for (std::size_t i = 0; i < count; ++i) {
    const ChartPoint& point = *points[(2 * i + 1) * points.size() / (2 * count)];
    *svg += fmt::format(R"svg(<path class="marker" fill="var(--{})" d="M{:.1f} {:.1f}{}"/>)svg", line.color, x(point.x),
                        y(point.y), MarkerOf(line.marker).path);
  }
}

void DrawLine(const Chart& chart, const ChartLine& line, const Scale& x, const Scale& y, std::string* svg) {
  std::string path, upper, lower;
  bool has_band = false;
  std::vector<const ChartPoint*> shown;
  for (const ChartPoint& point : line.points) {
    if (!IsShown(chart, point.y)) continue;
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : " L", x(point.x), y(point.y));
    const double low = IsShown(chart, point.low) ? point.low : point.y;
    upper += fmt::format("{}{:.1f} {:.1f}", upper.empty() ? "M" : " L", x(point.x), y(point.high));
    lower = fmt::format(" L{:.1f} {:.1f}", x(point.x), y(low)) + lower;
    has_band = has_band || low < point.high;
    shown.push_back(&point);
  }
  if (shown.empty()) return;
  if (has_band)
    *svg += fmt::format(R"svg(<path class="band" fill="var(--{})" d="{}{} Z"/>)svg", line.color, upper, lower);
  if (line.marker > 0) DrawMarkers(line, shown, x, y, svg);
  if (shown.size() == 1) {
    if (line.marker == 0) {
      *svg += fmt::format(R"svg(<circle fill="var(--{})" cx="{:.1f}" cy="{:.1f}" r="3.5"/>)svg", line.color,
                          x(shown[0]->x), y(shown[0]->y));
    }
    return;
  }
  *svg += fmt::format(R"svg(<path class="line" stroke="var(--{})" d="{}"><title>{}</title></path>)svg", line.color,
                      path, EscapeHtml(line.label));
}

void DrawBars(const ChartLine& line, const Scale& x, const Scale& y, std::string* svg) {
  const double width = 0.72 * (x(1) - x(0));
  for (const ChartPoint& point : line.points) {
    if (!std::isfinite(point.y)) continue;
    *svg +=
        fmt::format(R"svg(<rect fill="var(--{})" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>)svg",
                    line.color, x(point.x) - width / 2, std::min(y(point.y), y(0)), width, std::abs(y(point.y) - y(0)));
    if (point.low < point.high) {
      *svg += fmt::format(R"(<line class="whisker" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>)", x(point.x),
                          y(point.low), y(point.high));
    }
  }
  *svg += fmt::format(R"(<line class="axis" x1="{0:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{2:.1f}"/>)", kLeft,
                      kWidth - kRight, y(0));
}

}  // namespace

std::string MarkerSign(int marker) { return marker == 0 ? "" : MarkerOf(marker).sign; }

std::string EscapeHtml(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '&':
        escaped += "&amp;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::pair<double, double> RangeOf(const Chart& chart) {
  double low = INFINITY, high = -INFINITY;
  for (const ChartLine& line : chart.lines) {
    for (const ChartPoint& point : line.points) {
      for (const double value : {point.y, point.low, point.high}) {
        if (!IsShown(chart, value)) continue;
        low = std::min(low, value);
        high = std::max(high, value);
      }
    }
  }
  if (low > high) return {0, 0};
  return chart.is_bars ? std::pair(std::min(low, 0.0), std::max(high, 0.0)) : std::pair(low, high);
}

std::string ToSvg(const Chart& chart) {
  const bool has_range = chart.y_min != 0 || chart.y_max != 0;
  const auto [low, high] = has_range ? std::pair(chart.y_min, chart.y_max) : RangeOf(chart);
  double first = INFINITY, last = -INFINITY;
  for (const ChartLine& line : chart.lines) {
    for (const ChartPoint& point : line.points) {
      if (!IsShown(chart, point.y)) continue;
      first = std::min(first, point.x);
      last = std::max(last, point.x);
    }
  }
  if (first > last) return "";
  if (chart.is_bars) first -= 0.5, last += 0.5;
  const Scale x = MakeScale(first, last, /*is_log=*/false, kLeft, kWidth - kRight);
  const Scale y = MakeScale(low, high, chart.is_log, kHeight - kBottom, kTop);
  std::string svg =
      fmt::format(R"(<svg viewBox="0 0 {} {}" role="img"><title>{}</title>)", kWidth, kHeight, EscapeHtml(chart.title));
  DrawAxes(chart, x, y, &svg);
  for (const ChartLine& line : chart.lines) {
    chart.is_bars ? DrawBars(line, x, y, &svg) : DrawLine(chart, line, x, y, &svg);
  }
  return svg + "</svg>";
}

}  // namespace normlab::report
