// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace normlab::cli {

/// "43s", "12m 05s", "3h 20m", "2d 4h". Negative durations read as "0s".
std::string DurationText(absl::Duration duration);
/// "2026-01-31", "2026-01-31 12:00", "2026-01-31 12:00:30" (in `zone`), RFC 3339, or how long before `now`: "30s",
/// "90m", "4h", "2d", "1w". INVALID_ARGUMENT for anything else.
absl::StatusOr<absl::Time> ParseMoment(const std::string& text, absl::Time now, absl::TimeZone zone);
/// "950", "12.3k", "4.56M": at most three significant digits.
std::string CountText(double count);
/// "3.1 MB".
std::string BytesText(int64_t bytes);
/// Four significant digits; "nan" and "inf" as they are.
std::string ValueOf(double value);
/// `fraction` of `width` columns filled, in eighths of a block, or in ASCII; brought into 0 to 1.
std::string Bar(double fraction, int width, bool is_unicode = true);
/// `values` from left to right in at most `width` columns, as blocks of eight heights between the smallest and the
/// largest, or in ASCII; means where there are more values than columns. What is not finite is a '!'; empty if there
/// is no value.
std::string Sparkline(const std::vector<double>& values, int width, bool is_unicode = true);

}  // namespace normlab::cli
