#include "cli/table.h"

#include <algorithm>

namespace normlab::cli {
namespace {

std::string RenderRow(const std::vector<Cell>& cells, const std::vector<Column>& columns,
                      const std::vector<int>& widths, bool is_colored) {
  std::string line;
  std::string pending;  // Blanks that are written only if something follows them.
  for (size_t i = 0; i < columns.size() && i < cells.size(); ++i) {
    const std::string text = Printable(cells[i].text);
    const std::string padding(widths[i] - DisplayWidth(text), ' ');
    if (columns[i].align == Align::kRight) pending += padding;
    if (!text.empty()) {
      line += pending + Paint(text, cells[i].style, is_colored);
      pending.clear();
    }
    if (columns[i].align == Align::kLeft) pending += padding;
    pending += "  ";
  }
  return line + "\n";
}

}  // namespace

std::string Table::Render(bool is_colored) const {
  std::vector<int> widths;
  std::vector<Cell> titles;
  for (const Column& column : columns_) {
    widths.push_back(DisplayWidth(column.title));
    titles.emplace_back(column.title, Style::kBold);
  }
  for (const auto& row : rows_) {
    for (size_t i = 0; i < columns_.size() && i < row.size(); ++i) {
      widths[i] = std::max(widths[i], DisplayWidth(Printable(row[i].text)));
    }
  }
  std::string text = RenderRow(titles, columns_, widths, is_colored);
  for (const auto& row : rows_) text += RenderRow(row, columns_, widths, is_colored);
  return text;
}

}  // namespace normlab::cli
