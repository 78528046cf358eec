// Aligned tables for people.
#pragma once

#include <string>
#include <vector>

#include "cli/terminal.h"

namespace normlab::cli {

enum class Align { kLeft, kRight };

struct Column {
  std::string title;
  Align align = Align::kLeft;
};

struct Cell {
  Cell(std::string text, Style style = Style::kPlain)  // NOLINT: a cell is mostly its text.
      : text(std::move(text)), style(style) {}
  Cell(const char* text) : text(text) {}  // NOLINT

  std::string text;
  Style style = Style::kPlain;
};

/// Collects rows, then prints all columns as wide as their widest cell, two spaces between them. A row may have fewer
/// cells than there are columns.
class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void AddRow(std::vector<Cell> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }

  /// Title line and rows, each ending in a newline, without blanks at line ends.
  std::string Render(bool is_colored) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace normlab::cli
