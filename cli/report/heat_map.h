// Angular distances as a triangle of coloured cells, SVG for the inside of a page. Pure; equal input gives equal bytes.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace normlab::report {

/// What the colours mean, the same for all maps of a page.
struct ColorScale {
  double low = 0;
  double high = 0;
};

/// Distances as LayerStudy has them: [l - 1][n - 1].
using Triangle = std::vector<std::vector<double>>;

/// From the smallest to the largest finite value in all of them; {0, 0} if there is none.
ColorScale ScaleOf(const std::vector<const Triangle*>& triangles);

/// <svg>: layer l to the right, n upwards, cell (l, n) coloured by d(l, n). Empty if the triangle is.
std::string HeatMapSvg(const std::string& title, const Triangle& triangle, const ColorScale& scale);

/// <svg>: the colours with their values.
std::string ColorScaleSvg(const ColorScale& scale);

}  // namespace normlab::report
