#include "cli/units.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/numbers.h"
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

absl::StatusOr<absl::Time> ParseMoment(const std::string& text, absl::Time now, absl::TimeZone zone) {
  absl::Time time;
  std::string error;
  for (const char* format : {"%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", absl::RFC3339_full}) {
    if (absl::ParseTime(format, text, zone, &time, &error)) return time;
  }
  constexpr std::pair<char, int> kSecondsOf[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86'400}, {'w', 604'800}};
  int64_t count = 0;
  if (text.size() > 1 && absl::SimpleAtoi(text.substr(0, text.size() - 1), &count) && count >= 0) {
    for (const auto& [letter, seconds] : kSecondsOf) {
      if (text.back() == letter) return now - count * absl::Seconds(seconds);
    }
  }
  return absl::InvalidArgumentError(
      fmt::format("'{}': is no time such as 2026-01-31, '2026-01-31 12:00', or 90m, 4h or 2d ago", text));
}

std::string CountText(double count) {
  if (count < 999.5) return fmt::format("{:.3g}", count);
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

std::string Bar(double fraction, int width, bool is_unicode) {
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  if (!(fraction > 0)) fraction = 0;
  const int eighths = static_cast<int>(std::min(fraction, 1.0) * width * 8);
  std::string bar;
  for (int i = 0; i < eighths / 8; ++i) bar += is_unicode ? "█" : "#";
  if (is_unicode) bar += kEighths[eighths % 8];
  for (int i = DisplayWidth(bar); i < width; ++i) bar += is_unicode ? "░" : "-";
  return bar;
}

std::string Sparkline(const std::vector<double>& values, int width, bool is_unicode) {
  static constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  static constexpr const char* kLetters[] = {"_", ".", ":", "-", "=", "+", "*", "#"};
  const size_t columns = std::min(values.size(), static_cast<size_t>(std::max(width, 0)));
  std::vector<double> means;
  for (size_t i = 0; i < columns; ++i) {
    const size_t first = i * values.size() / columns, last = (i + 1) * values.size() / columns;
    means.push_back(std::accumulate(values.begin() + first, values.begin() + last, 0.0) /
                    static_cast<double>(last - first));
  }
  double low = INFINITY, high = -INFINITY;
  for (const double mean : means) {
    if (std::isfinite(mean)) low = std::min(low, mean), high = std::max(high, mean);
  }
  std::string line;
  for (const double mean : means) {
    if (!std::isfinite(mean)) {
      line += "!";
      continue;
    }
    // A flat line stands at the bottom.
    const int height = high > low ? std::min(7, static_cast<int>((mean - low) / (high - low) * 8)) : 0;
    line += is_unicode ? kBlocks[height] : kLetters[height];
  }
  return line;
}

}  // namespace normlab::cli
