// The tables of a report as text in cells, shared by the page and by Markdown.
#pragma once

#include <string>
#include <vector>

#include "cli/report/report.h"

namespace normlab::report {

struct TextTable {
  std::string title;
  std::string note;  // What the columns mean; may be empty.
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
  std::vector<bool> is_number;  // By column: right aligned.
};

/// Loss and perplexity of each arm at its best learning rate.
TextTable ResultTable(const Report& report);
/// One per family of comparisons.
std::vector<TextTable> ComparisonTables(const Report& report);
/// Mean loss by arm and learning rate; without rows if there is no such axis.
TextTable RateTable(const Report& report);
/// Growth of the output variance over depth at the end of training.
TextTable LayerTable(const Report& report);
/// What each arm cost.
TextTable CostTable(const Report& report);
/// What removing one layer costs, by arm; without rows if no run was analyzed.
TextTable RemovalTable(const Report& report);
/// What the runs were made with: exact versions.
TextTable EnvironmentTable(const Report& report);
/// Runs that needed more than one attempt or did not end well; without rows if there is none.
TextTable TroubleTable(const Report& report);

}  // namespace normlab::report
