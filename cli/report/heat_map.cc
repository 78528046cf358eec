#include "cli/report/heat_map.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "cli/report/chart.h"
#include "fmt/format.h"

namespace normlab::report {
namespace {

// In pixels of the drawing.
constexpr double kWidth = 360, kHeight = 330, kLeft = 46, kRight = 8, kTop = 8, kBottom = 42;
constexpr int kNumColors = 12;  // Classes h0 to h11 of the page.

int ColorOf(double value, const ColorScale& scale) {
  if (!(scale.high > scale.low)) return 0;
  const int color = static_cast<int>((value - scale.low) / (scale.high - scale.low) * kNumColors);
  return std::clamp(color, 0, kNumColors - 1);
}

/// 1, the last, and whole tens or so between.
std::vector<int> TicksOf(int last) {
  const int stride = last <= 12 ? 2 : last <= 30 ? 5 : last <= 60 ? 10 : (last + 49) / 50 * 10;
  std::vector<int> ticks = {1};
  for (int tick = stride; tick < last; tick += stride) {
    if (tick > 1 && last - tick > stride / 3) ticks.push_back(tick);
  }
  if (last > 1) ticks.push_back(last);
  return ticks;
}

void DrawTicks(int num_layers, double cell, std::string* svg) {
  for (const int tick : TicksOf(num_layers)) {
    const double place = (tick - 0.5) * cell;
    *svg += fmt::format(R"(<text class="tick" text-anchor="middle" x="{:.1f}" y="{:.1f}">{}</text>)", kLeft + place,
                        kHeight - kBottom + 15, tick);
    *svg += fmt::format(R"(<text class="tick" text-anchor="end" x="{:.1f}" y="{:.1f}">{}</text>)", kLeft - 5,
                        kHeight - kBottom - place + 4, tick);
  }
  *svg += fmt::format(R"(<text class="label" text-anchor="middle" x="{:.1f}" y="{:.1f}">layer l</text>)",
                      (kLeft + kWidth - kRight) / 2, kHeight - 8);
  *svg += fmt::format(
      R"svg(<text class="label" text-anchor="middle" transform="translate(13 {:.1f}) rotate(-90)">n layers on</text>)svg",
      (kTop + kHeight - kBottom) / 2);
}

}  // namespace

ColorScale ScaleOf(const std::vector<const Triangle*>& triangles) {
  double low = INFINITY, high = -INFINITY;
  for (const Triangle* triangle : triangles) {
    for (const std::vector<double>& row : *triangle) {
      for (const double value : row) {
        if (!std::isfinite(value)) continue;
        low = std::min(low, value);
        high = std::max(high, value);
      }
    }
  }
  return low <= high ? ColorScale{low, high} : ColorScale{};
}

std::string HeatMapSvg(const std::string& title, const Triangle& triangle, const ColorScale& scale) {
  if (triangle.empty()) return "";
  const int num_layers = static_cast<int>(triangle.size());
  const double cell = std::min(kWidth - kLeft - kRight, kHeight - kTop - kBottom) / num_layers;
  // One path per colour, of runs of equal cells: a deep model has thousands of cells.
  std::array<std::string, kNumColors> paths;
  for (int n = 1; n <= num_layers; ++n) {
    const int row_layers = num_layers + 1 - n;
    for (int first = 1; first <= row_layers;) {
      const int color = ColorOf(triangle[first - 1][n - 1], scale);
      int last = first;
      while (last < row_layers && ColorOf(triangle[last][n - 1], scale) == color) ++last;
      paths[color] +=
          fmt::format("M{:.2f} {:.2f}h{:.2f}v{:.2f}h{:.2f}z", kLeft + (first - 1) * cell, kHeight - kBottom - n * cell,
                      (last - first + 1) * cell, cell, -(last - first + 1) * cell);
      first = last + 1;
    }
  }
  std::string svg = fmt::format(R"(<svg viewBox="0 0 {} {}" role="img" shape-rendering="crispEdges"><title>{}</title>)",
                                kWidth, kHeight, EscapeHtml(title));
  for (int color = 0; color < kNumColors; ++color) {
    if (!paths[color].empty()) svg += fmt::format(R"(<path class="heat h{}" d="{}"/>)", color, paths[color]);
  }
  DrawTicks(num_layers, cell, &svg);
  return svg + "</svg>";
}

std::string ColorScaleSvg(const ColorScale& scale) {
  constexpr double kBarLeft = 20, kBarWidth = 320, kBarHeight = 14;
  std::string svg = R"(<svg class="scale" viewBox="0 0 360 40" role="img"><title>What the colours mean</title>)";
  for (int color = 0; color < kNumColors; ++color) {
    svg += fmt::format(R"(<rect class="h{}" x="{:.2f}" y="2" width="{:.2f}" height="{}"/>)", color,
                       kBarLeft + color * kBarWidth / kNumColors, kBarWidth / kNumColors, kBarHeight);
  }
  for (int i = 0; i <= 4; ++i) {
    svg += fmt::format(R"(<text class="tick" text-anchor="middle" x="{:.1f}" y="32">{:.3f}</text>)",
                       kBarLeft + i * kBarWidth / 4, scale.low + i * (scale.high - scale.low) / 4);
  }
  return svg + "</svg>";
}

}  // namespace normlab::report
