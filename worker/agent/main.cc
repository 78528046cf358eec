// normlab-worker: wires the agent. See Agent for what it does.
#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/build_id.h"
#include "common/clock.h"
#include "common/disk_metrics.h"
#include "common/grpc_channel.h"
#include "common/log.h"
#include "common/metrics_server.h"
#include "common/status.h"
#include "common/version.h"
#include "fmt/format.h"
#include "prometheus/registry.h"
#include "spdlog/spdlog.h"
#include "worker/agent/agent.h"
#include "worker/agent/device_probe.h"
#include "worker/agent/host_limits.h"

namespace normlab::agent {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

struct Flags {
  std::string id;
  std::string coordinator = "127.0.0.1:7070";
  AgentFolders folders;
  std::string metrics = "127.0.0.1:0";
  int threads = FindHostLimits().threads;
  std::string trainer;
  std::string bind_host = "127.0.0.1";
  double stop_grace_seconds = 30;
  std::vector<std::string> labels;
  std::string log_level = "info";
  ChannelSecurity security;
  bool is_metrics_plaintext_asked = false;
  bool is_metrics_plaintext_off_loopback_asked = false;
};

void AddFlags(CLI::App& app, Flags& flags) {
  app.add_option("--id", flags.id, "Name of this worker, unique in the cluster")->required();
  app.add_option("--coordinator", flags.coordinator, "HOST:PORT of the coordinator")->capture_default_str();
  app.add_option("--work", flags.folders.work, "Folder for specs and logs of attempts; one per worker")->required();
  app.add_option("--data-root", flags.folders.data_root, "Folder that holds the datasets")->required();
  app.add_option("--checkpoint-root", flags.folders.checkpoint_root,
                 "Folder for the checkpoints of all runs; the same for all workers")
      ->required();
  app.add_option("--metrics", flags.metrics, "HOST:PORT to serve /metrics on; port 0 takes a free one")
      ->capture_default_str();
  app.add_option("--threads", flags.threads, "Threads of a trainer whose spec does not say")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--trainer", flags.trainer, "The trainer; by default normlab-train beside this program");
  app.add_option("--bind-host", flags.bind_host, "Address of this host for the other trainers of a gang")
      ->capture_default_str();
  app.add_option("--stop-grace", flags.stop_grace_seconds,
                 "Seconds for a checkpoint when this worker is stopped or its lease is over")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--label", flags.labels, "KEY=VALUE that specs can ask for; may be given several times");
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warning, error or off")->capture_default_str();
  const std::string group = "Security";
  app.add_option("--tls-ca", flags.security.ca_file,
                 "PEM file of the authorities of the coordinator's certificate; without it plain text")
      ->group(group);
  app.add_option("--tls-cert", flags.security.cert_file, "PEM file of this worker's certificate")->group(group);
  app.add_option("--tls-key", flags.security.key_file, "PEM file of its key")->group(group);
  app.add_option("--token-file", flags.security.token_file, "File with a token of the role worker")->group(group);
  app.add_flag("--plaintext", flags.security.is_plaintext_asked,
               "Talk without TLS off the loopback; needs --plaintext-off-loopback as well")
      ->group(group);
  app.add_flag("--plaintext-off-loopback", flags.security.is_plaintext_off_loopback_asked,
               "Everybody on the network may read and change what is said")
      ->group(group);
  app.add_flag("--metrics-plaintext", flags.is_metrics_plaintext_asked,
               "Serve --metrics off the loopback; needs --metrics-plaintext-off-loopback as well")
      ->group(group);
  app.add_flag("--metrics-plaintext-off-loopback", flags.is_metrics_plaintext_off_loopback_asked,
               "Everybody on the network may read the metrics")
      ->group(group);
  app.set_version_flag("--version", fmt::format("normlab-worker {}", kVersion));
  app.footer(
      "Example:\n"
      "  normlab-worker --id host-0 --coordinator 127.0.0.1:7070 --work ~/normlab/host-0 \\\n"
      "    --data-root ~/normlab/data --checkpoint-root ~/normlab/checkpoints --metrics 127.0.0.1:9101\n"
      "\n"
      "SIGTERM or SIGINT: the trainer checkpoints, then the worker ends with 0; a second one kills the trainer at "
      "once.\n"
      "Exit codes: 0 ended as asked, 1 an error, 2 wrong flags.");
}

struct HostPort {
  std::string host;
  std::string port;
};

absl::StatusOr<HostPort> SplitHostPort(const std::string& flag, const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) {
    return absl::InvalidArgumentError(fmt::format("{} '{}' is not HOST:PORT, such as 127.0.0.1:9101", flag, text));
  }
  return HostPort{.host = text.substr(0, colon), .port = text.substr(colon + 1)};
}

std::string HostName() {
  char name[HOST_NAME_MAX + 1] = {};
  return gethostname(name, HOST_NAME_MAX) == 0 ? name : "unknown";
}

/// The HTTP server and where others reach it.
struct ServedMetrics {
  std::unique_ptr<MetricsServer> server;
  std::string address;
};

// The HTTP library has no TLS that works here: docs/decisions/0011.
absl::Status CheckMetricsPlaintext(const Flags& flags, const std::string& host) {
  const bool is_said_twice = flags.is_metrics_plaintext_asked && flags.is_metrics_plaintext_off_loopback_asked;
  if (IsLoopbackHost(host) || is_said_twice) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("--metrics {}: it is not of the loopback, and metrics are plain text for everybody on the way. Put a "
                  "proxy with TLS before a loopback address; or say both --metrics-plaintext and "
                  "--metrics-plaintext-off-loopback",
                  flags.metrics));
}

absl::StatusOr<ServedMetrics> ServeMetrics(const Flags& flags,
                                           std::vector<std::shared_ptr<prometheus::Collectable>> sources) {
  const std::string& listen = flags.metrics;
  NORMLAB_ASSIGN_OR_RETURN(const HostPort where, SplitHostPort("--metrics", listen));
  // The HTTP library takes numeric addresses only.
  const std::string host = where.host == "localhost" ? "127.0.0.1" : where.host;
  NORMLAB_RETURN_IF_ERROR(CheckMetricsPlaintext(flags, host));
  auto server = MetricsServer::Start(fmt::format("{}:{}", host, where.port), std::move(sources));
  if (!server.ok()) {
    return absl::UnavailableError(
        fmt::format("--metrics {}: cannot listen there: the port is in use, or the host is no numeric address of this "
                    "machine; port 0 takes a free one ({})",
                    listen, std::string(server.status().message())));
  }
  const bool is_any = host == "0.0.0.0" || host == "[::]";
  const int port = (*server)->port();
  return ServedMetrics{.server = *std::move(server), .address = fmt::format("{}:{}", is_any ? HostName() : host, port)};
}

absl::StatusOr<v1::WorkerInfo> DescribeWorker(const Flags& flags, const WorkerDevice& device,
                                              const std::string& metrics_address) {
  v1::WorkerInfo info;
  info.set_host(HostName());
  info.set_device(device.name);
  info.set_device_lacks(device.lacks);
  info.set_memory_bytes(FindHostLimits().memory_bytes);
  info.set_threads(flags.threads);
  for (const std::string& label : flags.labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(fmt::format("--label '{}' is not KEY=VALUE", label));
    }
    const bool is_new = info.mutable_labels()->insert({label.substr(0, equals), label.substr(equals + 1)}).second;
    if (!is_new) {
      return absl::InvalidArgumentError(fmt::format("--label {} is given twice", label.substr(0, equals)));
    }
  }
  // What was given with --label stays.
  info.mutable_labels()->insert(device.labels.begin(), device.labels.end());
  info.set_metrics_address(metrics_address);
  info.set_build(std::string(BuildId()));
  return info;
}

absl::StatusOr<std::string> FindTrainer(const std::string& given) {
  std::error_code error;
  const std::filesystem::path path =
      given.empty() ? std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "normlab-train"
                    : std::filesystem::absolute(given, error);
  if (access(path.c_str(), X_OK) == 0) return path.string();
  return absl::NotFoundError(
      fmt::format("the trainer {} is no executable file; build it (target normlab-train) or give "
                  "--trainer PATH",
                  path.string()));
}

std::string NewIncarnation() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

sigset_t EndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

/// Hands SIGTERM and SIGINT to the agent while it lives. The signals must be blocked in all threads.
class SignalThread {
 public:
  explicit SignalThread(Agent* agent) : thread_([this, agent] { Watch(agent); }) {}
  ~SignalThread() {
    is_over_ = true;
    pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }

 private:
  void Watch(Agent* agent) {
    const sigset_t signals = EndSignals();
    for (int count = 1;; ++count) {
      int signal_number = 0;
      sigwait(&signals, &signal_number);
      if (is_over_) return;
      spdlog::info("got {}", signal_number == SIGTERM ? "SIGTERM" : "SIGINT");
      count == 1 ? agent->RequestDrain() : agent->RequestKill();
    }
  }

  std::atomic<bool> is_over_ = false;
  std::thread thread_;
};

absl::Status RunWorker(const Flags& flags) {
  NORMLAB_RETURN_IF_ERROR(InitLogging("normlab-worker", flags.log_level));
  const RealClock clock;
  NORMLAB_RETURN_IF_ERROR(CheckChannelSecurity("--coordinator", flags.coordinator, flags.security, clock.Now()));
  NORMLAB_ASSIGN_OR_RETURN(const std::string trainer, FindTrainer(flags.trainer));
  NORMLAB_ASSIGN_OR_RETURN(const AgentFolders folders, OpenFolders(flags.folders));
  NORMLAB_ASSIGN_OR_RETURN(const FileDescriptor lock, LockWorkFolder(folders.work));
  const WorkerDevice device = ProbeDevice({.trainer = trainer});
  spdlog::info("device: {}{}", device.name, device.lacks.empty() ? "" : fmt::format(", no GPU: {}", device.lacks));
  NORMLAB_RETURN_IF_ERROR(BecomeSubreaper());
  const auto registry = std::make_shared<prometheus::Registry>();
  Metrics metrics(*registry);
  const auto disks = std::make_shared<DiskMetrics>(
      std::map<std::string, std::filesystem::path>{{"checkpoints", folders.checkpoint_root}, {"work", folders.work}});
  NORMLAB_ASSIGN_OR_RETURN(const ServedMetrics served, ServeMetrics(flags, {registry, disks}));
  NORMLAB_ASSIGN_OR_RETURN(const v1::WorkerInfo info, DescribeWorker(flags, device, served.address));
  spdlog::info("worker {} {}: coordinator {} ({}), metrics http://{}/metrics, work {}", flags.id, kVersion,
               flags.coordinator, flags.security.ca_file.empty() ? "plain text" : "TLS", served.address,
               folders.work.string());

  // gRPC says only that a handshake failed, again and again.
  if (const std::string why = ExplainConnection(flags.coordinator, flags.security); !why.empty()) {
    spdlog::error("{}; trying on", why);
  }
  Agent agent({.session = {.worker_id = flags.id,
                           .incarnation = NewIncarnation(),
                           .info = info,
                           .random_seed = std::random_device()()},
               .folders = folders,
               .trainer = {.trainer = trainer, .bind_host = flags.bind_host, .threads = flags.threads},
               .stop_grace = absl::Seconds(flags.stop_grace_seconds)},
              OpenCoordinatorChannel(flags.coordinator, flags.security), &clock, &metrics);
  const SignalThread signal_thread(&agent);
  const absl::Status status = agent.Run();
  spdlog::info("worker {} has ended", flags.id);
  return status;
}

}  // namespace
}  // namespace normlab::agent

int main(int argc, char** argv) {
  using namespace normlab;
  using namespace normlab::agent;
  // Before any thread is made: all of them inherit the mask, and only SignalThread gets these two.
  const sigset_t signals = EndSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  Flags flags;
  CLI::App app("Worker of normlab: runs one trainer at a time for the coordinator.", "normlab-worker");
  AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  const absl::Status status = RunWorker(flags);
  if (!status.ok()) fmt::print(stderr, "normlab-worker: {}\n", std::string(status.message()));
  return status.ok() ? 0 : absl::IsInvalidArgument(status) ? kExitUsage : kExitFailure;
}
