#include "cli/table.h"

#include <gtest/gtest.h>

namespace normlab::cli {
namespace {

TEST(TableTest, ColumnsAreAsWideAsTheirWidestCellAndLinesEndWithoutBlanks) {
  Table table({{"RUN"}, {"STEP", Align::kRight}, {"NOTE"}});
  table.AddRow({"exp-0001.01", "7", "a"});
  table.AddRow({"x", "1200", ""});
  EXPECT_EQ(table.Render(/*is_colored=*/false),
            "RUN          STEP  NOTE\n"
            "exp-0001.01     7  a\n"
            "x            1200\n");
}

TEST(TableTest, ColourDoesNotMoveColumns) {
  Table table({{"A"}, {"B"}});
  table.AddRow({{"ok", Style::kGreen}, "x"});
  table.AddRow({"long", "y"});
  EXPECT_EQ(table.Render(/*is_colored=*/true),
            "\x1b[1mA\x1b[0m     \x1b[1mB\x1b[0m\n"
            "\x1b[32mok\x1b[0m    x\n"
            "long  y\n");
}

TEST(TableTest, WidthIsCountedInCharactersNotBytes) {
  Table table({{"LOSS"}, {"B"}});
  table.AddRow({"1 ± 2", "x"});
  EXPECT_EQ(table.Render(false), "LOSS   B\n1 ± 2  x\n");
}

TEST(TableTest, ControlCharactersFromElsewhereDoNotReachTheTerminal) {
  Table table({{"NAME"}});
  table.AddRow({"a\x1b[2Jb\nc"});
  EXPECT_EQ(table.Render(false), "NAME\na?[2Jb?c\n");
}

TEST(TerminalTest, TruncateKeepsWholeCharactersAndMarksTheCut) {
  EXPECT_EQ(Truncate("abcdef", 6), "abcdef");
  EXPECT_EQ(Truncate("abcdef", 4), "abc…");
  EXPECT_EQ(Truncate("±±±±", 3), "±±…");
  EXPECT_EQ(Truncate("abc", 0), "");
}

}  // namespace
}  // namespace normlab::cli
