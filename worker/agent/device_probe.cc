#include "worker/agent/device_probe.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "fmt/format.h"
#include "worker/agent/child.h"

namespace normlab::agent {
namespace {

constexpr size_t kOutputBytesMax = 64 << 10;

struct Answer {
  std::string line;  // The child's first one, or what it wrote until its end.
  bool is_late = false;
};

Answer WaitForAnswer(Child& child, absl::Time deadline) {
  std::string text;
  std::array<char, 4096> buffer;
  while (text.find('\n') == std::string::npos && text.size() < kOutputBytesMax) {
    pollfd readable = {.fd = child.out().get(), .events = POLLIN};
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    if (left <= 0 || poll(&readable, 1, static_cast<int>(left)) == 0) return {.line = text, .is_late = true};
    const ssize_t bytes = read(child.out().get(), buffer.data(), buffer.size());
    if (bytes > 0) text.append(buffer.data(), static_cast<size_t>(bytes));
    if (bytes == 0 || (bytes < 0 && errno != EAGAIN && errno != EINTR)) break;
  }
  return {.line = text.substr(0, text.find('\n'))};
}

std::string TextOf(const nlohmann::json& answer, const char* key) {
  const auto found = answer.find(key);
  return found != answer.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

WorkerDevice ParseProbe(std::string_view output) {
  const nlohmann::json answer = nlohmann::json::parse(output, nullptr, /*allow_exceptions=*/false);
  const bool is_answer = answer.is_object() && answer.contains("device");
  if (!is_answer) {
    return {.lacks = output.empty()
                         ? "the trainer did not say what it computes on"
                         : fmt::format("the trainer did not say what it computes on but '{}'", output.substr(0, 100))};
  }
  if (TextOf(answer, "device") != "cuda") return {.lacks = TextOf(answer, "lacks")};
  WorkerDevice device = {.name = TextOf(answer, "name")};
  std::string label = device.name;
  std::replace(label.begin(), label.end(), ' ', '-');
  device.labels = {{"device", "cuda"}, {"gpu", label}};
  return device;
}

WorkerDevice ProbeDevice(const DeviceProbeOptions& options) {
  const bool may_have_driver =
      std::any_of(options.driver_files.begin(), options.driver_files.end(), [](const auto& file) {
        std::error_code ignored;
        return std::filesystem::exists(file, ignored);
      });
  if (!may_have_driver) {
    return {.lacks = fmt::format("no NVIDIA driver: {} does not exist", options.driver_files.front())};
  }
  const absl::Time deadline = absl::Now() + options.timeout;
  auto child = Child::Spawn({.argv = {options.trainer, "--probe-device"}, .folder = "/"});
  if (!child.ok()) return {.lacks = std::string(child.status().message())};
  const Answer answer = WaitForAnswer(**child, deadline);
  if (answer.is_late) {
    return {.lacks = fmt::format("the trainer's --probe-device gave no answer within {}: is the NVIDIA driver stuck?",
                                 absl::FormatDuration(options.timeout))};
  }
  return ParseProbe(answer.line);
}

}  // namespace normlab::agent
