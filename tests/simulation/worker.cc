#include "tests/simulation/worker.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace normlab::simulation {
namespace {

/// The agent's clocks are read a moment after the poll that woke it.
constexpr absl::Duration kPollTime = absl::Milliseconds(1);

}  // namespace

/// The agent's end of a link.
class Worker::AgentStream final : public agent::Stream {
 public:
  AgentStream(Worker& worker, std::shared_ptr<Link> link) : worker_(worker), link_(std::move(link)) {
    link_->down->Receive(
        [this](v1::CoordinatorMessage message) {
          worker_.OnMessage(message);
          inbox_.push_back(std::move(message));
          worker_.PlanStep(absl::Microseconds(50));
        },
        [this](const absl::Status& status) {
          ended_ = status;
          worker_.PlanStep(absl::Microseconds(50));
        });
  }
  ~AgentStream() override {
    link_->down->Deafen();
    link_->up->Break();
  }

  void Send(v1::WorkerMessage message) override {
    if (message.has_report() && message.report().event().has_finished()) {
      worker_.finishes_[message.report().sequence()] = *agent::AttemptKey::FromProto(message.report().attempt());
    }
    if (!ended_) link_->up->Send(std::move(message));
  }
  size_t backlog() const override { return link_->up->num_waiting(); }
  void HalfClose() override { link_->up->SendEnd(absl::OkStatus()); }
  void Cancel() override {
    link_->up->Break();
    link_->down->Deafen();
    if (!ended_) ended_ = absl::CancelledError("cancelled");
    worker_.PlanStep(absl::Milliseconds(1));
  }
  std::vector<v1::CoordinatorMessage> Take() override { return std::exchange(inbox_, {}); }
  std::optional<absl::Status> ended() const override { return ended_; }

 private:
  Worker& worker_;
  const std::shared_ptr<Link> link_;
  std::vector<v1::CoordinatorMessage> inbox_;
  std::optional<absl::Status> ended_;
};

Worker::Worker(Timeline& timeline, Dice dice, Observer& observer, Rules& rules, Fabric& fabric,
               Coordinator& coordinator, int number, Options options)
    : timeline_(timeline),
      dice_(dice),
      observer_(observer),
      rules_(rules),
      fabric_(fabric),
      coordinator_(coordinator),
      number_(number),
      name_(fmt::format("w{}", number)),
      options_(std::move(options)),
      clock_(timeline, absl::Hours(number + 1)) {
  if (observer.plant == Plant::kLeaseNotEnded) clock_.SetRate(0.3);
}

Worker::~Worker() { core_.reset(); }

void Worker::Start() {
  ++incarnation_;
  request_ = agent::AgentCore::Request::kNone;
  finishes_.clear();
  const auto open_stream = [this]() -> std::unique_ptr<agent::Stream> {
    auto link = std::make_shared<Link>(timeline_, dice_, up_, down_, number_);
    link_ = link;
    auto stream = std::make_unique<AgentStream>(*this, link);
    // The connection comes through when its first message does.
    link->up->Receive(
        // The agent's stream owns the link until then: holding it here would be a circle.
        [this, weak = std::weak_ptr(link)](v1::WorkerMessage hello) {
          const auto link = weak.lock();
          if (link == nullptr) return;
          if (!coordinator_.is_up()) return link->down->SendEnd(absl::UnavailableError("connection refused"));
          coordinator_.Accept(link);
          link->up->Redeliver(std::move(hello));
        },
        [](const absl::Status&) {});
    return stream;
  };
  agent::TrainerHost* const host = this;
  core_ = std::make_unique<agent::AgentCore>(
      agent::CoreOptions{.session = {.worker_id = name_,
                                     .incarnation = fmt::format("{}-{}", name_, incarnation_),
                                     .info = options_.info,
                                     .report_bytes_max = options_.report_bytes_max,
                                     .random_seed = dice_.Next()},
                         .stop_grace = options_.stop_grace},
      open_stream, &clock_, host);
  observer_.Trace("{} starts as {}", name_, incarnation_);
  PlanStep(absl::ZeroDuration());
}

void Worker::PlanStep(absl::Duration delay) {
  if (core_ == nullptr || is_frozen()) return;
  const absl::Time when = timeline_.now() + std::max(delay, absl::ZeroDuration());
  if (next_step_ && *next_step_ <= when) return;
  next_step_ = when;
  timeline_.At(when, [this, token = ++step_token_] {
    if (token == step_token_) Step();
  });
}

void Worker::Step() {
  next_step_.reset();
  if (core_ == nullptr || is_frozen()) return;
  const auto result = core_->Step(request_);
  if (result) {
    observer_.Trace("{} ends: {}", name_, result->ToString());
    return Restart(dice_.Between(absl::Seconds(1), absl::Seconds(5)));
  }
  const absl::Time deadline = core_->NextDeadline();
  if (deadline == absl::InfiniteFuture()) return;
  PlanStep(std::max(deadline - clock_.SteadyNow(), kPollTime));
}

void Worker::Restart(absl::Duration down) {
  core_.reset();
  rules_.OnAgentEnd(fmt::format("{}-{}", name_, incarnation_));
  process_.reset();
  next_step_.reset();
  ++step_token_;
  timeline_.After(down, [this, now = incarnation_] {
    if (now == incarnation_ && core_ == nullptr) Start();
  });
}

void Worker::Crash(absl::Duration down) {
  if (core_ == nullptr) return;
  observer_.Trace("{} crashes", name_);
  Restart(down);
}

void Worker::FreezeAgent(absl::Duration time) {
  observer_.Trace("agent of {} freezes for {}", name_, absl::FormatDuration(time));
  is_agent_frozen_ = true;
  timeline_.After(time, [this, token = ++freeze_token_] {
    if (token != freeze_token_) return;
    is_agent_frozen_ = is_host_frozen_ = false;
    observer_.Trace("{} thaws", name_);
    next_step_.reset();
    PlanStep(absl::ZeroDuration());
  });
}

void Worker::FreezeHost(absl::Duration time) {
  is_host_frozen_ = true;
  FreezeAgent(time);
}

void Worker::KillTrainer() {
  if (process_ == nullptr || !process_->is_alive()) return;
  ++observer_.coverage.killed_trainers;
  observer_.Trace("{} on {} is killed", process_->key().ToString(), name_);
  process_->Die(11);
}

void Worker::Drain() {
  if (core_ == nullptr) return;
  observer_.Trace("{} drains", name_);
  request_ = agent::AgentCore::Request::kDrain;
  PlanStep(absl::ZeroDuration());
}

void Worker::BreakLink() {
  if (link_ == nullptr) return;
  observer_.Trace("the connection of {} breaks", name_);
  link_->Break();
}

bool Worker::HoldsLease(absl::Duration slack) const {
  if (core_ == nullptr) return false;
  const auto& expires_at = core_->session().lease().expires_at();
  return expires_at && clock_.SteadyNow() < *expires_at + slack;
}

absl::StatusOr<std::unique_ptr<agent::Trainer>> Worker::StartTrainer(const agent::AttemptKey& key,
                                                                     const v1::StartAttempt& start) {
  Process::Host& host = *this;
  process_ = std::make_shared<Process>(timeline_, dice_.Split(), fabric_, host, clock_, key, start);
  observer_.Trace("{} starts on {}", key.ToString(), name_);
  rules_.OnTrainerStart(key, fmt::format("{}-{}", name_, incarnation_));
  process_->Begin();
  return std::make_unique<SimulatedTrainer>(process_, clock_);
}

void Worker::OnEnd(const agent::AttemptKey& key) {
  observer_.Trace("{} on {} has ended", key.ToString(), name_);
  process_.reset();
}

void Worker::OnWork(const Process& process) {
  if (process.is_stopping() || is_frozen()) return;
  if (!HoldsLease(2 * kPollTime)) {
    observer_.Break("{} on {} works although the lease is over", process.key().ToString(), name_);
  }
  rules_.OnWork(process.key(), name_);
}

void Worker::OnGone(const Process& process) {
  observer_.Trace("{} on {} is gone: {}", process.key().ToString(), name_, process.exit()->ShortDebugString());
}

void Worker::OnMessage(const v1::CoordinatorMessage& message) {
  if (!message.has_ack()) return;
  while (!finishes_.empty() && finishes_.begin()->first <= message.ack().sequence()) {
    rules_.OnFinishAcknowledged(finishes_.begin()->second.run, finishes_.begin()->second.attempt);
    finishes_.erase(finishes_.begin());
  }
}

}  // namespace normlab::simulation
