#include "cli/units.h"

#include <algorithm>

#include "cli/terminal.h"
#include "fmt/format.h"

namespace normlab::cli {

std::string DurationText(absl::Duration duration) {
  if (duration == absl::InfiniteDuration()) return "?";
  const int64_t seconds = std::max<int64_t>(0, absl::ToInt64Seconds(duration));
  if (seconds < 60) return fmt::format("{}s", seconds);
  if (seconds < 3600) return fmt::format("{}m {:02}s", seconds / 60, seconds % 60);
  if (seconds < 86400) return fmt::format("{}h {:02}m", seconds / 3600, seconds % 3600 / 60);
  return fmt::format("{}d {}h", seconds / 86400, seconds % 86400 / 3600);
}

std::string CountText(double count) {
  if (count < 1000) return fmt::format("{:.3g}", count);
  for (const char* unit : {"k", "M", "G"}) {
    count /= 1000;
    if (count < 999.5) return fmt::format("{:.{}f}{}", count, count < 9.995 ? 2 : count < 99.95 ? 1 : 0, unit);
  }
  return fmt::format("{:.0f}G", count);
}

std::string BytesText(int64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  const std::string text = CountText(static_cast<double>(bytes));
  return fmt::format("{} {}B", text.substr(0, text.size() - 1), text.back());
}

std::string ValueOf(double value) { return fmt::format("{:.4g}", value); }

std::string Bar(double fraction, int width) {
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  if (!(fraction > 0)) fraction = 0;
  const int eighths = static_cast<int>(std::min(fraction, 1.0) * width * 8);
  std::string bar;
  for (int i = 0; i < eighths / 8; ++i) bar += "█";
  bar += kEighths[eighths % 8];
  for (int i = DisplayWidth(bar); i < width; ++i) bar += "░";
  return bar;
}

}  // namespace normlab::cli
