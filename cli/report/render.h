// A report in the forms that leave the house. All are pure: the same report gives the same bytes, so that a report can
// be made again from what the coordinator has stored and compared.
#pragma once

#include <string>

#include "cli/report/report.h"

namespace normlab::report {

/// One self-contained page: no script, no file or address outside of it; light, dark and print.
std::string ToHtml(const Report& report);
/// Tables of the same numbers.
std::string ToMarkdown(const Report& report);
/// One line per run: arm, learning rate, seed, outcome, loss, cost.
std::string ToCsv(const Report& report);
/// All of it for programs; absent numbers are null.
std::string ToJson(const Report& report);

/// The experiment as a file for `normlab submit`.
std::string SpecYaml(const Report& report);

}  // namespace normlab::report
