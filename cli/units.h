// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace normlab::cli {

/// "43s", "12m 05s", "3h 20m", "2d 4h". Negative durations read as "0s".
std::string DurationText(absl::Duration duration);
/// "950", "12.3k", "4.56M": at most three significant digits.
std::string CountText(double count);
/// "3.1 MB".
std::string BytesText(int64_t bytes);
/// Four significant digits; "nan" and "inf" as they are.
std::string ValueOf(double value);
/// `fraction` of `width` columns filled, in eighths of a block; brought into 0 to 1.
std::string Bar(double fraction, int width);

}  // namespace normlab::cli
