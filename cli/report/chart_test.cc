#include "cli/report/chart.h"

#include <gmock/gmock.h>

#include <set>

namespace normlab::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Chart ChartOf(std::vector<ChartPoint> points) {
  return {.title = "T", .x_title = "update", .y_title = "loss", .lines = {{"lns", "c0", std::move(points)}}};
}

TEST(ChartTest, WithoutAPointIsNothing) {
  EXPECT_EQ(ToSvg(ChartOf({})), "");
  EXPECT_EQ(ToSvg(ChartOf({{1, NAN, NAN, NAN}})), "");
}

TEST(ChartTest, LeavesOutWhatALogarithmicAxisCannotShow) {
  Chart chart = ChartOf({{1, 0, 0, 0}, {2, 10, 10, 10}, {3, 1000, 1000, 1000}});
  chart.is_log = true;
  EXPECT_EQ(RangeOf(chart), std::pair(10.0, 1000.0));
  EXPECT_THAT(ToSvg(chart), Not(HasSubstr("nan")));
  EXPECT_THAT(ToSvg(chart), Not(HasSubstr("inf")));
}

TEST(ChartTest, OnePointIsADotAndAFlatLineIsDrawn) {
  EXPECT_THAT(ToSvg(ChartOf({{1, 2, 2, 2}})), HasSubstr("<circle"));
  EXPECT_THAT(ToSvg(ChartOf({{1, 2, 2, 2}, {2, 2, 2, 2}})), HasSubstr("class=\"line\""));
}

TEST(ChartTest, ABandIsDrawnWhereSeedsDiffer) {
  EXPECT_THAT(ToSvg(ChartOf({{1, 2, 1, 3}, {2, 2, 1, 3}})), HasSubstr("class=\"band\""));
  EXPECT_THAT(ToSvg(ChartOf({{1, 2, 2, 2}, {2, 3, 3, 3}})), Not(HasSubstr("class=\"band\"")));
}

TEST(ChartTest, AMarkerStandsOnAFewPointsAndHasASignForTheLegend) {
  std::vector<ChartPoint> points;
  for (int i = 0; i < 100; ++i) points.push_back({i * 1.0, 2, 2, 2});
  Chart chart = ChartOf(points);
  EXPECT_THAT(ToSvg(chart), Not(HasSubstr("class=\"marker\"")));
  std::set<std::string> signs;
  for (int marker = 1; marker <= 4; ++marker) {
    chart.lines[0].marker = marker;
    const std::string svg = ToSvg(chart);
    int count = 0;
    for (std::size_t at = svg.find("\"marker\""); at != std::string::npos; at = svg.find("\"marker\"", at + 1)) ++count;
    EXPECT_EQ(count, 8);
    signs.insert(MarkerSign(marker));
  }
  EXPECT_EQ(signs.size(), 4);
  EXPECT_EQ(MarkerSign(0), "");
}

TEST(ChartTest, TextOfUsersCannotBecomeMarkup) {
  EXPECT_EQ(EscapeHtml("<b>\"&'"), "&lt;b&gt;&quot;&amp;&#39;");
  Chart chart = ChartOf({{1, 2, 2, 2}, {2, 3, 3, 3}});
  chart.lines[0].label = "<script>";
  EXPECT_THAT(ToSvg(chart), Not(HasSubstr("<script>")));
}

}  // namespace
}  // namespace normlab::report
