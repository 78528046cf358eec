// Line charts as SVG, for the inside of a page: colours are CSS variables of that page (--c0 to --c7 for things that
// differ in kind,
// --s0 to --s5 for steps in time), so that one drawing is good in light and dark. Pure; equal input gives equal bytes.
#pragma once

#include <string>
#include <vector>

namespace normlab::report {

struct ChartPoint {
  double x = 0;
  double y = 0;
  double low = 0;  // Of the band around the line; equal to y without one.
  double high = 0;
};

struct ChartLine {
  std::string label;
  std::string color;  // "c0".
  std::vector<ChartPoint> points;
  int marker = 0;  // 0: none; else a shape on some of the points, for lines that share a colour.
};

struct Chart {
  std::string title;
  std::string x_title;
  std::string y_title;
  bool is_log = false;   // The y axis; values that are not positive are left out.
  bool is_bars = false;  // A bar from 0 for each point of the one line, with its band as a whisker.
  std::vector<ChartLine> lines;
  /// Range of y; both 0: what the points need. Charts side by side share one.
  double y_min = 0;
  double y_max = 0;
};

/// The smallest and largest y (bands included) that `chart` would show; {0, 0} if it has no point.
std::pair<double, double> RangeOf(const Chart& chart);

/// <svg>, with a title for screen readers, axes with 1-2-5 ticks, bands, lines; the legend stands in HTML below. Empty
/// if there is nothing to show.
std::string ToSvg(const Chart& chart);

/// The shape of a marker as a character, for a legend; empty for 0.
std::string MarkerSign(int marker);

/// <, >, & and quotes as entities.
std::string EscapeHtml(const std::string& text);

}  // namespace normlab::report
