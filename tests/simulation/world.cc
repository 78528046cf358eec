#include "tests/simulation/world.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace normlab::simulation {
namespace {

constexpr absl::Duration kCalmMax = absl::Hours(2);

engine::Options DrawOptions(Dice& dice, int world_size_max) {
  engine::Options options;
  options.lease = dice.Between(absl::Seconds(6), absl::Seconds(20));
  options.heartbeat_interval = options.lease / dice.Between(3, 6);
  options.stop_grace = dice.Between(absl::Seconds(1), absl::Seconds(8));
  options.backoff_first = absl::Seconds(1);
  options.backoff_max = absl::Seconds(8);
  options.policy.usage_half_life = absl::Minutes(1);
  options.policy.aging = dice.Chance(0.5) ? absl::Seconds(30) : absl::Hours(24);
  options.policy.run_time_min = dice.Between(absl::Seconds(1), absl::Seconds(10));
  if (dice.Chance(0.3)) options.policy.workers_per_user_max = world_size_max + dice.Below(2);
  if (dice.Chance(0.2)) options.policy.queued_per_user_max = 12;
  return options;
}

class World {
 public:
  World(uint64_t seed, bool traces, Plant plant)
      : dice_(seed),
        observer_(timeline_, traces, plant),
        mix_(FaultMix::Draw(dice_)),
        num_workers_(dice_.Between(1, 5)),
        users_{.world_size_max = std::min(3, num_workers_), .labelled_workers = dice_.Below(num_workers_ + 1)},
        options_(DrawOptions(dice_, users_.world_size_max)),
        rules_(observer_, fabric_, options_.policy, [this](const RunId& run) { return history_.MayRequeue(run); }),
        coordinator_(timeline_, dice_.Split(), observer_, rules_, options_) {
    const absl::Duration stop_grace = dice_.Between(absl::Seconds(1), absl::Seconds(8));
    const size_t report_bytes_max = dice_.Chance(0.2) ? 4000 : 32 << 20;
    for (int i = 0; i < num_workers_; ++i) {
      Worker::Options options = {.report_bytes_max = report_bytes_max, .stop_grace = stop_grace};
      options.info.set_host(fmt::format("host-{}", i / 2));
      if (i < users_.labelled_workers) (*options.info.mutable_labels())["gpu"] = "h100";
      workers_.push_back(
          std::make_unique<Worker>(timeline_, dice_.Split(), observer_, rules_, fabric_, coordinator_, i, options));
      workers_.back()->up().delay_max = mix_.delay_max;
      workers_.back()->down().delay_max = mix_.delay_max;
    }
    for (const char* name : {"ada", "bob", "cyd"}) {
      clients_.push_back(
          std::make_unique<Client>(timeline_, dice_.Split(), observer_, history_, coordinator_, name, users_, mix_));
    }
    watcher_ = std::make_unique<Watcher>(timeline_, dice_.Split(), observer_, coordinator_);
  }

  Outcome Run() {
    const absl::Time begin = timeline_.now();
    coordinator_.Start();
    for (const auto& worker : workers_) worker->Start();
    faults_end_ = begin + dice_.Between(absl::Seconds(30), absl::Seconds(120));
    for (const auto& client : clients_) client->Begin(faults_end_);
    watcher_->Begin();
    for (int i = 0; i < kNumFaults; ++i) PlanFault(static_cast<Fault>(i));
    RunUntil(faults_end_);
    Mend();
    const absl::Time calm_end = timeline_.now() + kCalmMax;
    while (observer_.broken().empty() && !IsSettled() && timeline_.now() < calm_end) {
      RunUntil(timeline_.now() + absl::Seconds(5));
      Tidy();
    }
    if (!IsSettled()) observer_.Break("does not come to an end within {}", absl::FormatDuration(kCalmMax));
    RunUntil(timeline_.now() + absl::Seconds(5));
    if (observer_.broken().empty()) watcher_->CheckEnd(rules_.runs());
    if (observer_.broken().empty()) coordinator_.CheckLogs();
    observer_.coverage.seconds = absl::ToInt64Seconds(timeline_.now() - begin);
    return {observer_.broken(), observer_.trace() + rules_.Text(), observer_.fingerprint(), observer_.coverage};
  }

 private:
  void RunUntil(absl::Time until) {
    while (observer_.broken().empty() && timeline_.RunNext(until)) {
    }
  }

  Worker& AnyWorker() { return *workers_[static_cast<size_t>(dice_.Below(num_workers_))]; }

  void PlanFault(Fault fault) {
    const absl::Duration mean = mix_.mean_interval[static_cast<size_t>(fault)];
    if (mean == absl::ZeroDuration()) return;
    timeline_.After(dice_.Between(absl::ZeroDuration(), 2 * mean), [this, fault] {
      if (timeline_.now() >= faults_end_) return;
      ++observer_.coverage.faults[static_cast<size_t>(fault)];
      Inject(fault);
      PlanFault(fault);
    });
  }

  void Inject(Fault fault) {
    const absl::Duration lease = options_.lease;
    const absl::Duration around_lease = dice_.Between(absl::Milliseconds(100), 2 * lease);
    const absl::Time later = timeline_.now() + around_lease;
    Worker& worker = AnyWorker();
    switch (fault) {
      case Fault::kReset:
        if (dice_.Chance(0.2)) watcher_->BreakLink();
        return worker.BreakLink();
      case Fault::kPartitionUp:
        observer_.Trace("nothing comes from {} for {}", worker.name(), absl::FormatDuration(around_lease));
        worker.up().blocked_until = later;
        return;
      case Fault::kPartitionDown:
        observer_.Trace("nothing comes to {} for {}", worker.name(), absl::FormatDuration(around_lease));
        worker.down().blocked_until = later;
        return;
      case Fault::kPartitionBoth:
        observer_.Trace("{} is cut off for {}", worker.name(), absl::FormatDuration(around_lease));
        worker.up().blocked_until = worker.down().blocked_until = later;
        return;
      case Fault::kCoordinatorCrash:
        return coordinator_.Crash(around_lease);
      case Fault::kCommitCrash:
        return coordinator_.CrashInNextCommit();
      case Fault::kSlowCommit:
        return coordinator_.SlowDownUntil(later, dice_.Between(absl::Milliseconds(50), lease));
      case Fault::kFailedCommit:
        return coordinator_.FailNextCommit();
      case Fault::kAgentCrash:
        return worker.Crash(around_lease);
      case Fault::kAgentFreeze:
        return worker.FreezeAgent(around_lease);
      case Fault::kHostFreeze:
        return worker.FreezeHost(around_lease);
      case Fault::kTrainerCrash:
        return worker.KillTrainer();
      case Fault::kDrain:
        return worker.Drain();
      case Fault::kCordon:
        return Cordon(worker.name(), dice_.Chance(0.5));
      case Fault::kClockSet:
        return coordinator_.SetClock(dice_.Between(absl::Minutes(-30), absl::Minutes(30)));
    }
  }

  void Do(engine::Command command) {
    if (!coordinator_.is_up()) return;
    coordinator_.Call(std::move(command),
                      [](const absl::StatusOr<engine::Reply>&, const service::View*) { return nullptr; });
  }
  void Cordon(const std::string& worker, bool cordoned) {
    Do(engine::CordonWorker{.worker = {worker}, .cordoned = cordoned, .actor = "operator"});
  }

  /// From now on nothing goes wrong.
  void Mend() {
    observer_.Trace("calm");
    for (const auto& client : clients_) client->Mend();
    watcher_->Mend();
    for (const auto& worker : workers_) {
      worker->up().delay_max = worker->down().delay_max = absl::Milliseconds(5);
    }
  }
  /// What users and operators have left behind.
  void Tidy() {
    if (!coordinator_.is_up()) return;
    History::Operation release = {.kind = History::Kind::kRelease};
    for (const auto& [id, run] : rules_.runs()) release.runs.push_back(id);
    const History::Token token = history_.Begin(std::move(release)).second;
    coordinator_.Call(
        engine::UpdateRuns{.selector = {.states = {engine::RunState::kQueued}}, .held = false, .actor = "operator"},
        [token](const absl::StatusOr<engine::Reply>&, const service::View*) { return [token] {}; });
    for (const auto& worker : workers_) Cordon(worker->name(), false);
  }

  bool IsSettled() const {
    return rules_.IsSettled() && coordinator_.is_up() && !coordinator_.is_committing() &&
           std::all_of(clients_.begin(), clients_.end(), [](const auto& client) { return client->is_idle(); }) &&
           std::all_of(workers_.begin(), workers_.end(), [](const auto& worker) {
             return !worker->has_trainer() && worker->num_pending() == 0 && !worker->is_frozen();
           });
  }

  Dice dice_;
  History history_{timeline_, observer_};  // Before the timeline: events that never happen still hold its tokens.
  Timeline timeline_;
  Observer observer_;
  const FaultMix mix_;
  const int num_workers_;
  const UserOptions users_;
  const engine::Options options_;
  absl::Time faults_end_;
  Fabric fabric_;
  Rules rules_;
  Coordinator coordinator_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::unique_ptr<Watcher> watcher_;
};

}  // namespace

void Coverage::Add(const Coverage& other) {
  moves.insert(other.moves.begin(), other.moves.end());
  for (size_t i = 0; i < faults.size(); ++i) faults[i] += other.faults[i];
  lost_commits += other.lost_commits;
  kept_commits += other.kept_commits;
  log_lines += other.log_lines;
  failed_commits += other.failed_commits;
  killed_trainers += other.killed_trainers;
  restarts += other.restarts;
  leases_lost += other.leases_lost;
  attempts += other.attempts;
  preemptions += other.preemptions;
  acknowledged += other.acknowledged;
  unanswered += other.unanswered;
  reads += other.reads;
  resyncs += other.resyncs;
  resumes += other.resumes;
  overruns += other.overruns;
  seconds += other.seconds;
}

Outcome Simulate(uint64_t seed, bool traces, Plant plant) { return World(seed, traces, plant).Run(); }

}  // namespace normlab::simulation
