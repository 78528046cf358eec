#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/simulation/world.h"

// normlab-simulate: runs seeds of the simulation, or one seed again with its trace.
namespace normlab::simulation {
namespace {

constexpr char kUsage[] =
    "Usage: normlab-simulate --seeds N [--first S] [--jobs J]   runs N seeds from S (0) on, J (1) at a time\n"
    "       normlab-simulate --seed S                           runs one seed and shows its last moments\n";
constexpr int kFailuresShown = 5;

struct Flags {
  std::optional<uint64_t> seed;
  uint64_t first = 0;
  int64_t seeds = 0;
  int jobs = 1;
};

std::string ReplayCommand(uint64_t seed) { return fmt::format("./dev sim --seed {:#x}", seed); }

std::optional<Flags> Parse(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i + 1 < argc; i += 2) {
    char* end = nullptr;
    const uint64_t value = std::strtoull(argv[i + 1], &end, 0);
    if (*argv[i + 1] == '\0' || *end != '\0') return std::nullopt;
    const std::string name = argv[i];
    if (name == "--seed") {
      flags.seed = value;
    } else if (name == "--seeds") {
      flags.seeds = static_cast<int64_t>(value);
    } else if (name == "--first") {
      flags.first = value;
    } else if (name == "--jobs") {
      flags.jobs = std::clamp(static_cast<int>(value), 1, 256);
    } else {
      return std::nullopt;
    }
  }
  if (argc % 2 == 0 || (!flags.seed && flags.seeds <= 0)) return std::nullopt;
  return flags;
}

void PrintCoverage(const Coverage& coverage) {
  fmt::print(
      "{} virtual hours: {} attempts, {} restarts of the coordinator, {} commits lost and {} kept without reply, "
      "{} leases lost, {} preemptions, {} operations acknowledged, {} unanswered, {} reads, {} watches begun, "
      "{} resumed, {} overrun\n",
      coverage.seconds / 3600, coverage.attempts, coverage.restarts, coverage.lost_commits, coverage.kept_commits,
      coverage.leases_lost, coverage.preemptions, coverage.acknowledged, coverage.unanswered, coverage.reads,
      coverage.resyncs, coverage.resumes, coverage.overruns);
  for (int i = 0; i < kNumFaults; ++i)
    fmt::print("{} {}{}", kFaultNames[i], coverage.faults[i], i + 1 < kNumFaults ? ", " : "\n");
}

int Replay(uint64_t seed) {
  const Outcome outcome = Simulate(seed, /*traces=*/true);
  fmt::print("{}", outcome.trace);
  if (outcome.broken.empty()) {
    fmt::print("seed {:#x} keeps all rules; fingerprint {:016x}\n", seed, outcome.fingerprint);
    return 0;
  }
  fmt::print("seed {:#x}: {}\n", seed, outcome.broken);
  return 1;
}

/// What one process found.
struct Share {
  Coverage coverage;
  std::vector<std::pair<uint64_t, std::string>> failures;
  int64_t num_failed = 0;
};

Share RunShare(const Flags& flags, int job) {
  Share share;
  for (int64_t i = job; i < flags.seeds; i += flags.jobs) {
    const uint64_t seed = flags.first + static_cast<uint64_t>(i);
    const Outcome outcome = Simulate(seed, /*traces=*/false);
    share.coverage.Add(outcome.coverage);
    if (outcome.broken.empty()) continue;
    ++share.num_failed;
    fmt::print("seed {:#x}: {}\n  again: {}\n", seed, outcome.broken.substr(0, 1000), ReplayCommand(seed));
    std::fflush(stdout);
    if (share.num_failed >= kFailuresShown) break;
  }
  return share;
}

/// Each share in a process of its own: a seed that ends the program must not take the others with it.
int RunAll(const Flags& flags) {
  const auto begin = std::chrono::steady_clock::now();
  std::vector<pid_t> children;
  bool has_failed = false;
  for (int job = 1; job < flags.jobs; ++job) {
    const pid_t child = fork();
    if (child == 0) std::_Exit(RunShare(flags, job).num_failed > 0 ? 1 : 0);
    if (child < 0) {
      fmt::print(stderr, "cannot start a process: {}; take fewer --jobs\n", std::strerror(errno));
      has_failed = true;
      break;
    }
    children.push_back(child);
  }
  const Share share = RunShare(flags, 0);
  has_failed = has_failed || share.num_failed > 0;
  for (const pid_t child : children) {
    int status = 0;
    has_failed = waitpid(child, &status, 0) != child || status != 0 || has_failed;
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  if (flags.jobs > 1) fmt::print("of the first of {} shares: ", flags.jobs);
  PrintCoverage(share.coverage);
  fmt::print("{} seeds from {:#x} in {:.1f} s: {}\n", flags.seeds, flags.first, elapsed.count(),
             has_failed ? "RULES WERE BROKEN" : "all rules kept");
  return has_failed ? 1 : 0;
}

}  // namespace
}  // namespace normlab::simulation

int main(int argc, char** argv) {
  using namespace normlab::simulation;
  spdlog::set_level(spdlog::level::off);
  const auto flags = Parse(argc, argv);
  if (!flags) {
    fmt::print(stderr, "{}", kUsage);
    return 2;
  }
  if (flags->seed) return Replay(*flags->seed);
  return RunAll(*flags);
}
