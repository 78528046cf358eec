#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "bench/control/coordinator_process.h"
#include "bench/control/measurements.h"
#include "bench/control/submitters.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::bench {
namespace {

constexpr size_t kSmallRecordBytes = 512;

/// Milliseconds of each of the syncs that fit into `duration`: small records appended and synced one by one.
absl::StatusOr<std::vector<double>> MeasureSyncs(const std::string& folder, absl::Duration duration) {
  const std::string path = folder + "/syncs";
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return absl::UnavailableError(fmt::format("cannot create {}: {}", path, strerror(errno)));
  const std::string record(kSmallRecordBytes, 'x');
  std::vector<double> milliseconds;
  int error = 0;
  const absl::Time end = absl::Now() + duration;
  for (absl::Time begin = absl::Now(); error == 0 && begin < end;) {
    if (write(fd, record.data(), record.size()) != static_cast<ssize_t>(record.size()) || fdatasync(fd) != 0) {
      error = errno;
    }
    const absl::Time now = absl::Now();
    milliseconds.push_back(absl::ToDoubleMilliseconds(now - begin));
    begin = now;
  }
  close(fd);
  unlink(path.c_str());
  if (error != 0) return absl::UnavailableError(fmt::format("cannot write {}: {}", path, strerror(error)));
  return milliseconds;
}

double PerSecond(const std::vector<double>& milliseconds) {
  double sum = 0;
  for (const double one : milliseconds) sum += one;
  return 1000 * static_cast<double>(milliseconds.size()) / sum;
}

void Append(const std::vector<double>& from, std::vector<double>* to) {
  to->insert(to->end(), from.begin(), from.end());
}

}  // namespace

absl::StatusOr<std::vector<Figure>> MeasureSubmits(const Options& options, const std::string& folder) {
  NORMLAB_ASSIGN_OR_RETURN(const auto coordinator, CoordinatorProcess::Start(options.coordinator, folder + "/submits"));
  Submitters one(coordinator->grpc_address(), 1);
  Submitters many(coordinator->grpc_address(), options.clients);
  const absl::Duration duration = absl::Seconds(options.round_seconds);
  std::vector<double> sync_rates, one_rates, many_rates, per_cpu_second, sync_times, one_times, many_times;
  for (int round = 0; round < options.rounds; ++round) {
    NORMLAB_ASSIGN_OR_RETURN(const std::vector<double> syncs, MeasureSyncs(folder, duration));
    NORMLAB_ASSIGN_OR_RETURN(const Submitters::Round alone, one.Measure(duration));
    const double cpu_before = coordinator->CpuSeconds();
    NORMLAB_ASSIGN_OR_RETURN(const Submitters::Round together, many.Measure(duration));
    per_cpu_second.push_back(static_cast<double>(together.count) / (coordinator->CpuSeconds() - cpu_before));
    sync_rates.push_back(PerSecond(syncs));
    one_rates.push_back(alone.per_second);
    many_rates.push_back(together.per_second);
    Append(syncs, &sync_times);
    Append(alone.milliseconds, &one_times);
    Append(together.milliseconds, &many_times);
  }
  const std::string many_name = fmt::format("control_submits_{}_clients", options.clients);
  return std::vector<Figure>{Summarize("control_fdatasyncs", "syncs/s", sync_rates),
                             Summarize("control_fdatasync_p99", "ms", sync_times, 0.99),
                             Summarize("control_submits_1_client", "submits/s", one_rates),
                             Summarize("control_submits_1_client_p99", "ms", one_times, 0.99),
                             Summarize(many_name, "submits/s", many_rates),
                             Summarize(many_name + "_p99", "ms", many_times, 0.99),
                             Summarize(many_name + "_per_daemon_cpu_second", "submits", per_cpu_second)};
}

}  // namespace normlab::bench
