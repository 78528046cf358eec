#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>

#include "common/build_id.h"
#include "common/clock.h"
#include "common/durable_file.h"
#include "common/log.h"
#include "common/status.h"
#include "common/version.h"
#include "coordinator/flags.h"
#include "coordinator/health_command.h"
#include "coordinator/http_server.h"
#include "coordinator/loop.h"
#include "coordinator/metrics/metrics.h"
#include "coordinator/restore_command.h"
#include "coordinator/retention.h"
#include "coordinator/service/auth_audit.h"
#include "coordinator/service/auth_tokens.h"
#include "coordinator/service/listen_address.h"
#include "coordinator/service/server.h"
#include "coordinator/store/backup.h"
#include "coordinator/store/rocksdb_store.h"
#include "coordinator/token_command.h"

// normlab-coordinator: the control plane. Exit codes: 0 ended as asked (SIGTERM, SIGINT), 1 failed (the log says why),
// 2 called wrongly.
namespace normlab {
namespace {

struct Flags {
  std::string data;
  std::string listen = "127.0.0.1:7070";
  std::string http = "127.0.0.1:7071";
  double lease_seconds = 30;
  double stop_grace_seconds = 30;
  double usage_half_life_hours = 24;
  double aging_hours = 24;
  double run_time_min_seconds = 600;
  int workers_per_user = 0;
  int queued_per_user = 0;
  std::string log_level = "info";
  std::string backup_root;
  int backups_kept = 7;
  double logs_days = 90;
  double history_days = 0;
  double events_days = 0;
  double logs_gib = 0;
  double history_gib = 0;
  double events_gib = 0;
  double retention_interval_seconds = 600;
  SecurityFlags security;
};

/// Waits for SIGTERM or SIGINT on a thread of its own; every other thread has them blocked.
class SignalWaiter {
 public:
  /// Before any other thread is started.
  static void Block() {
    const sigset_t signals = Signals();
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }

  explicit SignalWaiter(std::function<void(int)> on_signal)
      : thread_([on_signal = std::move(on_signal)] {
          const sigset_t signals = Signals();
          int number = 0;
          sigwait(&signals, &number);
          if (number != kEnd) on_signal(number);
        }) {}

  ~SignalWaiter() {
    pthread_kill(thread_.native_handle(), kEnd);  // Stays pending, unseen, if the thread has ended its wait.
    thread_.join();
  }

 private:
  static constexpr int kEnd = SIGUSR1;

  static sigset_t Signals() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int number : {SIGTERM, SIGINT, kEnd}) sigaddset(&signals, number);
    return signals;
  }

  std::thread thread_;
};

/// Why the coordinator ends: a signal, or the loop.
class EndReason {
 public:
  void Set() {
    {
      const std::scoped_lock lock(mutex_);
      is_set_ = true;
    }
    changed_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return is_set_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_set_ = false;
};

absl::StatusOr<std::unique_ptr<store::Store>> OpenStore(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::FailedPreconditionError(fmt::format("cannot create --data {}: {}", folder, error.message()));
  }
  return store::OpenRocksDbStore((std::filesystem::path(folder) / "db").string());
}

absl::Status WriteAddresses(const std::string& folder, const std::string& grpc, const std::string& http) {
  const nlohmann::json addresses = {{"grpc", grpc}, {"http", http}, {"pid", getpid()}};
  try {
    WriteFileDurably(std::filesystem::path(folder) / "address.json", addresses.dump() + "\n");
  } catch (const FileError& error) {
    return absl::InternalError(error.what());
  }
  return absl::OkStatus();
}

engine::Options ToEngineOptions(const Flags& flags) {
  const absl::Duration lease = absl::Seconds(flags.lease_seconds);
  return {.lease = lease,
          .heartbeat_interval = lease / 6,
          .stop_grace = absl::Seconds(flags.stop_grace_seconds),
          .policy = {.usage_half_life = absl::Hours(flags.usage_half_life_hours),
                     .aging = absl::Hours(flags.aging_hours),
                     .run_time_min = absl::Seconds(flags.run_time_min_seconds),
                     .workers_per_user_max = flags.workers_per_user,
                     .queued_per_user_max = flags.queued_per_user},
          .build = std::string(BuildId())};
}

RetentionPolicy ToRetentionPolicy(const Flags& flags) {
  const auto part = [](double days, double gib) {
    return RetentionPolicy::Part{.age = absl::Hours(24 * days), .bytes_max = static_cast<uint64_t>(gib * (1 << 30))};
  };
  return {.parts = {part(flags.logs_days, flags.logs_gib), part(flags.history_days, flags.history_gib),
                    part(flags.events_days, flags.events_gib)},
          .interval = absl::Seconds(flags.retention_interval_seconds)};
}

void AddStorageFlags(CLI::App& app, Flags& flags) {
  const std::string group = "Storage (docs/operations.md)";
  app.add_option("--backup-root", flags.backup_root,
                 "Folder for backups, best on another disk; without it there are none")
      ->type_name("FOLDER")
      ->group(group);
  app.add_option("--backups-kept", flags.backups_kept, "Newest backups that are kept")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str()
      ->group(group);
  const auto add = [&](const char* name, double& value, const std::string& what) {
    app.add_option(name, value, what)->check(CLI::Range(0.0, 1e6))->capture_default_str()->group(group);
  };
  add("--logs-days", flags.logs_days, "Days that the log lines of an ended run are kept; 0: for ever");
  add("--history-days", flags.history_days, "Days that its reports are kept; 0: for ever");
  add("--events-days", flags.events_days, "Days that its events are kept; 0: for ever");
  add("--logs-gib", flags.logs_gib, "GiB of log lines past which those that ended first lose theirs; 0: any number");
  add("--history-gib", flags.history_gib, "GiB of reports, likewise");
  add("--events-gib", flags.events_gib, "GiB of events, likewise");
  app.add_option("--retention-interval", flags.retention_interval_seconds,
                 "Seconds between two looks at what is too old")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str()
      ->group(group);
}

absl::Status Serve(const Flags& flags) {
  NORMLAB_ASSIGN_OR_RETURN(const auto grpc_address, service::ParseListenAddress(flags.listen));
  NORMLAB_ASSIGN_OR_RETURN(const auto http_address, service::ParseListenAddress(flags.http));
  const RealClock clock;
  NORMLAB_RETURN_IF_ERROR(CheckSecurityFlags(flags.security, grpc_address, http_address, clock.Now()));
  NORMLAB_ASSIGN_OR_RETURN(const auto store, OpenStore(flags.data));
  NORMLAB_ASSIGN_OR_RETURN(const auto audit, service::AuditLog::Open(std::filesystem::path(flags.data) / "audit", {}));
  const bool asks_for_tokens = flags.security.asks_for_tokens || !grpc_address.is_loopback();
  NORMLAB_ASSIGN_OR_RETURN(const auto tokens, service::TokenStore::Open(TokensFile(flags.data), clock));
  Metrics metrics;
  metrics.disks.emplace(std::map<std::string, std::filesystem::path>{{"data", flags.data}});
  NORMLAB_ASSIGN_OR_RETURN(const auto loop, Loop::Create(ToEngineOptions(flags), *store, clock, metrics));

  std::optional<store::Backups> backups;
  if (!flags.backup_root.empty()) backups.emplace(flags.backup_root, flags.data, flags.backups_kept);
  service::Server* counted = nullptr;  // Before the first request, see below.
  NORMLAB_ASSIGN_OR_RETURN(const auto http,
                           HttpServer::Start(http_address, {.engine = *loop,
                                                            .metrics = metrics,
                                                            .store = *store,
                                                            .policy = ToEngineOptions(flags).policy,
                                                            .count_streams = [&counted] {
                                                              return HttpServer::StreamCounts{
                                                                  .watchers = counted->num_watchers(),
                                                                  .watch_lag = counted->watch_lag(),
                                                                  .watch_resyncs = counted->num_watch_resyncs(),
                                                                  .log_streams = counted->num_log_streams(),
                                                                  .sessions = counted->num_sessions()};
                                                            }}));
  service::Server server(*loop, *store,
                         {.address = grpc_address,
                          .http_address = http->address(),
                          .on_call_done =
                              [&metrics](const std::string& method, const std::string& code, absl::Duration took) {
                                metrics.ObserveCall(method, code, absl::ToDoubleSeconds(took));
                              },
                          .credentials = CredentialsOf(flags.security),
                          .guard = {.clock = &clock,
                                    .tokens = asks_for_tokens ? tokens.get() : nullptr,
                                    .audit = audit.get(),
                                    .requests_per_second = flags.security.requests_per_second,
                                    .workers_need_certificate = !flags.security.tls_client_ca.empty()},
                          .backups = backups ? &*backups : nullptr});
  // The loop answers requests, and it does not run yet.
  counted = &server;
  for (service::TickListener* listener : server.listeners()) loop->AddListener(listener);
  NORMLAB_RETURN_IF_ERROR(server.Listen());
  NORMLAB_RETURN_IF_ERROR(WriteAddresses(flags.data, server.address(), http->address()));

  std::optional<Retention> retention(std::in_place, ToRetentionPolicy(flags), *store, *loop, clock, metrics);
  EndReason end;
  absl::Status ran;
  std::thread loop_thread([&] {
    ran = loop->Run();
    end.Set();
  });
  retention->Start();
  const SignalWaiter signals([&end](int number) {
    spdlog::info("{}: ending", number == SIGTERM ? "SIGTERM" : "SIGINT");
    end.Set();
  });
  spdlog::info("version {} serves gRPC on {} ({}, {}) and HTTP on {}, data in {}, lease {}", kVersion, server.address(),
               flags.security.has_tls() ? "TLS" : "plain text", asks_for_tokens ? "with tokens" : "without tokens",
               http->address(), flags.data, absl::FormatDuration(absl::Seconds(flags.lease_seconds)));
  if (asks_for_tokens && tokens->List().empty()) {
    spdlog::warn("there are no tokens, so nobody can call: normlab-coordinator --data {} token create --help",
                 flags.data);
  }
  end.Wait();
  server.Shutdown(absl::Seconds(2));
  retention.reset();  // While the loop still answers.
  loop->Stop();
  loop_thread.join();
  return ran;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app(
      "The control plane of normlab: keeps experiments, places runs on workers, serves the API.\n"
      "Exit codes: 0 ended as asked, 1 failed (the log says why), 2 called wrongly.",
      "normlab-coordinator");
  app.fallthrough();  // --data may stand after `token create`.
  app.set_version_flag("--version", std::string("normlab-coordinator ") + kVersion);
  app.add_option("--data", flags.data, "Folder of the database; created if missing")->required();
  app.add_option("--listen", flags.listen, "HOST:PORT of gRPC, numeric; port 0: any")->capture_default_str();
  app.add_option("--http", flags.http, "HOST:PORT of /metrics, /sd and /healthz; port 0: any")->capture_default_str();
  app.add_option("--lease", flags.lease_seconds, "Seconds that a silent worker keeps its work")
      ->check(CLI::Range(0.5, 3600.0))
      ->capture_default_str();
  app.add_option("--stop-grace", flags.stop_grace_seconds,
                 "Seconds that a trainer has to checkpoint when it is stopped")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  const std::string sharing = "Sharing (docs/scheduling.md)";
  app.add_option("--usage-half-life", flags.usage_half_life_hours, "Hours after which what a user has had counts half")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str()
      ->group(sharing);
  app.add_option("--aging", flags.aging_hours, "Hours of waiting that are worth one point of priority; 0: none")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str()
      ->group(sharing);
  app.add_option("--run-time-min", flags.run_time_min_seconds, "Seconds that an attempt has before it is preempted")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str()
      ->group(sharing);
  app.add_option("--workers-per-user", flags.workers_per_user, "Workers that a user may have at a time; 0: any number")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str()
      ->group(sharing);
  app.add_option("--queued-per-user", flags.queued_per_user, "Runs of a user that may wait at a time; 0: any number")
      ->check(CLI::Range(0, 100'000'000))
      ->capture_default_str()
      ->group(sharing);
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warning, error or off")->capture_default_str();
  AddSecurityFlags(app, flags.security);
  std::function<absl::Status()> command;
  AddStorageFlags(app, flags);
  AddTokenCommand(app, flags.data, command);
  AddRestoreCommand(app, flags.data, command);
  AddHealthCommand(app, flags.data, flags.security, command);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (const absl::Status status = InitLogging("normlab-coordinator", flags.log_level); !status.ok()) {
    fmt::print(stderr, "--log-level: {}\n", std::string(status.message()));
    return 2;
  }
  if (command) {
    const absl::Status done = command();
    if (!done.ok()) fmt::print(stderr, "normlab-coordinator: {}\n", std::string(done.message()));
    return done.ok() ? 0 : 1;
  }
  SignalWaiter::Block();
  const absl::Status served = Serve(flags);
  if (!served.ok()) {
    spdlog::error("{}", std::string(served.message()));
    return 1;
  }
  spdlog::info("ended");
  return 0;
}

}  // namespace
}  // namespace normlab

int main(int argc, char** argv) { return normlab::Main(argc, argv); }
