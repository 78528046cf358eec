// normlab up: a coordinator and workers on this machine.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <thread>

#include "cli/commands.h"
#include "cli/root_folder.h"
#include "cli/supervisor.h"
#include "common/status.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

struct UpOptions {
  std::string root = ".normlab";
  std::string listen = "127.0.0.1:7070";
  std::string http = "127.0.0.1:7071";
  int workers = 2;
  int threads = 0;
  bool is_detached = false;
};

constexpr absl::Duration kReadyTimeout = absl::Seconds(30);

/// OK if nothing listens at `address`. The coordinator would say so too, but another coordinator there would answer our
/// question whether it is ready.
absl::Status CheckPortIsFree(const std::string& address) {
  const size_t colon = address.rfind(':');
  const std::string host = address.substr(0, colon);
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  addrinfo hints{.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  if (port.empty() || getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) {
    return absl::InvalidArgumentError(fmt::format("--listen {}: must be HOST:PORT", address));
  }
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const int error = bind(fd, found->ai_addr, found->ai_addrlen) == 0 ? 0 : errno;
  close(fd);
  freeaddrinfo(found);
  if (error == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("cannot listen at {}: {}; end what uses it, or choose another address with --listen", address,
                  std::generic_category().message(error)));
}

absl::StatusOr<std::string> FindProgram(const Session& session, const std::string& name) {
  const std::filesystem::path path = session.program_folder / name;
  if (access(path.c_str(), X_OK) == 0) return path.string();
  return absl::InternalError(fmt::format("{} is not there; build it with ./dev build", path.string()));
}

int ThreadsPerWorker(const UpOptions& options) {
  if (options.threads > 0) return options.threads;
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return std::max(1, cores / std::max(1, options.workers));
}

absl::StatusOr<std::vector<Daemon>> PlanDaemons(const UpOptions& options, const Session& session,
                                                const std::filesystem::path& root) {
  NORMLAB_ASSIGN_OR_RETURN(const std::string coordinator, FindProgram(session, "normlab-coordinator"));
  NORMLAB_ASSIGN_OR_RETURN(const std::string worker, FindProgram(session, "normlab-worker"));
  NORMLAB_ASSIGN_OR_RETURN(const std::string trainer, FindProgram(session, "normlab-train"));
  std::vector<Daemon> daemons = {
      {"coordinator",
       {coordinator, "--data", root / "coordinator", "--listen", options.listen, "--http", options.http}}};
  for (int i = 1; i <= options.workers; ++i) {
    const std::string name = fmt::format("worker-{}", i);
    daemons.push_back(
        {name,
         {worker, "--id", name, "--coordinator", options.listen, "--work", root / "work" / name, "--data-root",
          root / "data", "--checkpoint-root", root / "checkpoints", "--metrics", "127.0.0.1:0", "--threads",
          fmt::format("{}", ThreadsPerWorker(options)), "--trainer", trainer}});
  }
  return daemons;
}

/// True once `count` workers hold a lease.
bool HaveWorkers(Client& client, int count) {
  const auto info = client.GetInfo();
  return info.ok() && info->num_workers() >= count;
}

absl::Status StartAll(Supervisor& supervisor, Interrupt& interrupt, const std::vector<Daemon>& daemons,
                      Client& client) {
  NORMLAB_RETURN_IF_ERROR(supervisor.Start(daemons.front()));
  NORMLAB_RETURN_IF_ERROR(supervisor.WaitUntil(
      daemons.front().name, [&] { return client.WaitForConnection(absl::Milliseconds(100)) && client.GetInfo().ok(); },
      kReadyTimeout));
  const int num_workers = static_cast<int>(daemons.size()) - 1;
  for (int i = 1; i <= num_workers; ++i) NORMLAB_RETURN_IF_ERROR(supervisor.Start(daemons[i]));
  for (int i = 1; i <= num_workers; ++i) {
    NORMLAB_RETURN_IF_ERROR(supervisor.WaitUntil(
        daemons[i].name, [&] { return HaveWorkers(client, i) || interrupt.WaitFor(absl::Milliseconds(20)); },
        kReadyTimeout));
  }
  return absl::OkStatus();
}

std::string Summary(const UpOptions& options, const RootFolder& root, Client& client, const Session& session) {
  const auto info = client.GetInfo();
  const std::string http = info.ok() && !info->http_address().empty() ? info->http_address() : options.http;
  if (session.is_json()) {
    return fmt::format("{{\"server\": \"{}\", \"http\": \"{}\", \"root\": \"{}\", \"workers\": {}, \"pid\": {}}}\n",
                       options.listen, http, root.path().string(), options.workers, getpid());
  }
  return fmt::format(
      "coordinator  {}\nmetrics      http://{}/metrics\nworkers      {} with {} thread(s) each\nroot         {}\n"
      "logs         {}\n",
      options.listen, http, options.workers, ThreadsPerWorker(options), root.path().string(),
      (root.path() / "logs").string());
}

/// In the process that stays. `report` gets the summary once all is ready.
absl::Status Supervise(const UpOptions& options, const Session& session, const RootFolder& root,
                       const std::function<void(const std::string&)>& report,
                       const std::function<void(const std::string&)>& say) {
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<Daemon> daemons, PlanDaemons(options, session, root.path()));
  NORMLAB_RETURN_IF_ERROR(CheckPortIsFree(options.listen));
  NORMLAB_RETURN_IF_ERROR(root.WritePid());
  Interrupt interrupt;
  Client client(options.listen, [](const std::string&) {});
  Supervisor supervisor(root, interrupt, say);
  NORMLAB_RETURN_IF_ERROR(StartAll(supervisor, interrupt, daemons, client));
  report(Summary(options, root, client, session));
  supervisor.Run();
  say("stopping: workers save checkpoints first");
  supervisor.Stop();
  say("stopped; what ran goes on at the next `normlab up`");
  return absl::OkStatus();
}

/// What the parent of a detached `up` reads: a summary after 'K', or an error's code and message after 'E'.
void WriteAll(int fd, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = write(fd, text.data() + done, text.size() - done);
    if (written < 0 && errno != EINTR) return;
    if (written > 0) done += static_cast<size_t>(written);
  }
}

[[noreturn]] void RunDetached(const UpOptions& options, const Session& session, const RootFolder& root, int fd) {
  setsid();
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int log_fd = open(root.Log("up").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  dup2(null_fd, STDIN_FILENO);
  dup2(log_fd, STDOUT_FILENO);
  dup2(log_fd, STDERR_FILENO);
  const auto say = [](const std::string& text) {
    fmt::print("{}\n", text);
    std::fflush(stdout);
  };
  const absl::Status status = Supervise(
      options, session, root,
      [fd](const std::string& summary) {
        WriteAll(fd, "K" + summary);
        close(fd);
      },
      say);
  if (!status.ok()) {
    WriteAll(fd, fmt::format("E{:03}{}", static_cast<int>(status.code()), std::string(status.message())));
    say(std::string(status.message()));
  }
  unlink((root.path() / "up.pid").c_str());
  _exit(static_cast<int>(ExitCodeOf(status)));
}

absl::StatusOr<ExitCode> Detach(const UpOptions& options, const Session& session, const RootFolder& root) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return absl::InternalError(std::generic_category().message(errno));
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid < 0) return absl::InternalError(fmt::format("cannot fork: {}", std::generic_category().message(errno)));
  if (pid == 0) {
    close(fds[0]);
    RunDetached(options, session, root, fds[1]);
  }
  close(fds[1]);
  std::string answer;
  char buffer[4096];
  while (true) {
    const ssize_t size = read(fds[0], buffer, sizeof(buffer));
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) break;
    answer.append(buffer, static_cast<size_t>(size));
  }
  close(fds[0]);
  if (answer.starts_with("K")) {
    fmt::print("{}", answer.substr(1));
    session.Hint(fmt::format("end it with: normlab down --root {}   submit: normlab submit FILE", options.root));
    return ExitCode::kOk;
  }
  waitpid(pid, nullptr, 0);
  if (answer.size() < 4) {
    return absl::InternalError(fmt::format("`up` died at its start; see {}", root.Log("up").string()));
  }
  return absl::Status(static_cast<absl::StatusCode>(std::stoi(answer.substr(1, 3))), answer.substr(4));
}

absl::StatusOr<ExitCode> RunUp(const UpOptions& options, const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(const RootFolder root, RootFolder::Lock(options.root));
  if (options.is_detached) return Detach(options, session, root);
  const auto report = [&](const std::string& summary) {
    fmt::print("{}", summary);
    session.Hint("Ctrl-C ends it; submit from another terminal: normlab submit FILE");
  };
  const auto say = [&](const std::string& text) { session.Note(text); };
  NORMLAB_RETURN_IF_ERROR(Supervise(options, session, root, report, say));
  return ExitCode::kOk;
}

}  // namespace

void AddUp(CLI::App& app, Session& session) {
  auto options = std::make_shared<UpOptions>();
  CLI::App* command = AddCommand(app, session, "up", "Run a coordinator and workers on this machine until Ctrl-C",
                                 "  normlab up                           # in the foreground\n"
                                 "  normlab up --detach --workers 4      # returns once all is ready\n"
                                 "  normlab down                         # ends a detached one",
                                 options, [&session](const UpOptions& chosen) { return RunUp(chosen, session); });
  command->add_option("--root", options->root, "Folder for the store, data, checkpoints and logs")
      ->type_name("DIR")
      ->capture_default_str();
  command->add_option("--workers", options->workers, "Workers to start")
      ->type_name("N")
      ->check(CLI::Range(0, 256))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Threads of each trainer; without it the cores are shared evenly")
      ->type_name("N")
      ->check(CLI::Range(1, 1024));
  command->add_option("--listen", options->listen, "Where the coordinator listens")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command->add_option("--http", options->http, "Where its /metrics is; port 0 takes a free one")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command->add_flag("--detach", options->is_detached, "Return once all is ready; end it with `normlab down`");
}

}  // namespace normlab::cli
