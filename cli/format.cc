#include "cli/format.h"

#include <cmath>
#include <map>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::cli {

absl::Time FromProto(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(absl::ToUnixSeconds(time));
  return timestamp;
}

std::string AgoText(const google::protobuf::Timestamp& time, absl::Time now) {
  const absl::Duration age = now - FromProto(time);
  return age < absl::Seconds(1) ? "just now" : DurationText(age) + " ago";
}

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", FromProto(time), absl::LocalTimeZone());
}

std::string UtcText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", FromProto(time), absl::UTCTimeZone());
}

std::string PairsText(const google::protobuf::Map<std::string, std::string>& pairs) {
  std::vector<std::string> words;
  for (const auto& [key, value] : std::map<std::string, std::string>(pairs.begin(), pairs.end())) {
    words.push_back(fmt::format("{}={}", key, value));
  }
  return fmt::format("{}", fmt::join(words, " "));
}

std::string AxesText(const v1::Run& run) {
  std::vector<std::string> words;
  for (const auto& [axis, value] : std::map<std::string, std::string>(run.axes().begin(), run.axes().end())) {
    words.push_back(value);
  }
  return fmt::format("{}", fmt::join(words, " "));
}

std::string StateName(v1::RunState state) { return v1::RunState_Name(state); }

bool IsTerminalState(v1::RunState state) {
  return state == v1::SUCCEEDED || state == v1::FAILED || state == v1::CANCELLED;
}

bool HasDiverged(const v1::Run& run) {
  const v1::RunProgress& progress = run.progress();
  return progress.diverged() || (progress.has_eval() && !std::isfinite(progress.eval().loss()));
}

Cell StateCell(const v1::Run& run) {
  switch (run.state()) {
    case v1::SUCCEEDED:
      if (HasDiverged(run)) return {"SUCCEEDED, diverged", Style::kYellow};
      return {"SUCCEEDED", Style::kGreen};
    case v1::FAILED:
      return {"FAILED", Style::kRed};
    case v1::CANCELLED:
      return {"CANCELLED", Style::kDim};
    case v1::RUNNING:
      return {"RUNNING", Style::kCyan};
    default:
      return {StateName(run.state()), Style::kYellow};
  }
}

std::string HistoryText(const v1::HistorySummary& summary) {
  const auto count = [](int64_t number, const char* thing) {
    return fmt::format("{} {}{}", number, thing, number == 1 ? "" : "s");
  };
  std::vector<std::string> parts;
  if (summary.num_steps() == 1) parts.push_back(fmt::format("report of step {}", summary.first_step()));
  if (summary.num_steps() > 1) {
    parts.push_back(fmt::format("reports of {} steps from {} to {}", summary.num_steps(), summary.first_step(),
                                summary.last_step()));
  }
  if (summary.num_missing() > 0) {
    std::vector<std::string> places;
    for (const v1::HistorySummary::Gap& gap : summary.gaps()) {
      if (places.size() < 3) places.push_back(fmt::format("between {} and {}", gap.after_step(), gap.before_step()));
    }
    parts.push_back(fmt::format("{} {} missing in {}, {}{}", count(summary.num_missing(), "report"),
                                summary.num_missing() == 1 ? "is" : "are", count(summary.num_gaps(), "gap"),
                                fmt::join(places, ", "), summary.num_gaps() > 3 ? ", ..." : ""));
  }
  if (summary.num_log_lines_dropped() == 1) parts.push_back("the oldest log line was dropped");
  if (summary.num_log_lines_dropped() > 1) {
    parts.push_back(fmt::format("the oldest {} log lines were dropped", summary.num_log_lines_dropped()));
  }
  const auto add_expired = [&parts](const char* what, bool has_expired, const google::protobuf::Timestamp& time) {
    if (has_expired) parts.push_back(fmt::format("retention removed the {} at {}", what, TimeText(time)));
  };
  add_expired("log lines", summary.has_logs_expired_at(), summary.logs_expired_at());
  add_expired("reports", summary.has_history_expired_at(), summary.history_expired_at());
  add_expired("events", summary.has_events_expired_at(), summary.events_expired_at());
  return fmt::format("{}", fmt::join(parts, "; "));
}

absl::Duration TimeLeft(const v1::Run& run) {
  const v1::RunProgress& progress = run.progress();
  if (!(progress.tokens_per_second() > 0)) return absl::InfiniteDuration();
  const double tokens_per_step = static_cast<double>(run.spec().train().batch_size()) * run.spec().data().seq_len();
  const int64_t steps = run.spec().train().steps() - progress.step();
  return absl::Seconds(static_cast<double>(steps) * tokens_per_step / progress.tokens_per_second());
}

}  // namespace normlab::cli
