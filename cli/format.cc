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

absl::Duration TimeLeft(const v1::Run& run) {
  const v1::RunProgress& progress = run.progress();
  if (!(progress.tokens_per_second() > 0)) return absl::InfiniteDuration();
  const double tokens_per_step = static_cast<double>(run.spec().train().batch_size()) * run.spec().data().seq_len();
  const int64_t steps = run.spec().train().steps() - progress.step();
  return absl::Seconds(static_cast<double>(steps) * tokens_per_step / progress.tokens_per_second());
}

}  // namespace normlab::cli
