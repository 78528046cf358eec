#include "coordinator/loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "common/metrics_page.h"
#include "common/testing/fake_clock.h"
#include "coordinator/service/testing/sample_commands.h"
#include "coordinator/store/memory_store.h"
#include "coordinator/store/testing/faulty_store.h"

namespace normlab {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Keeps what it was told.
struct Recorder final : service::TickListener {
  std::vector<engine::Outgoing> messages;
  int num_ticks = 0;

  void OnTick(const service::View&, const engine::Changes& changes) override {
    ++num_ticks;
    messages.insert(messages.end(), changes.messages.begin(), changes.messages.end());
  }

  template <typename Command>
  int Count() const {
    return static_cast<int>(std::count_if(messages.begin(), messages.end(), [](const engine::Outgoing& message) {
      return std::holds_alternative<Command>(message.command);
    }));
  }
};

class LoopTest : public ::testing::Test {
 protected:
  LoopTest() { Restart(); }

  /// A new process on the same disk.
  void Restart() {
    auto store = store::OpenMemoryStore(disk_);
    ASSERT_TRUE(store.ok());
    loop_.reset();
    memory_store_ = *std::move(store);
    store_ = std::make_unique<store::FaultyStore>(*memory_store_);
    metrics_ = std::make_unique<Metrics>();
    auto loop = Loop::Create(engine::Options(), *store_, clock_, *metrics_);
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
    loop_->AddListener(&recorder_);
  }

  void Submit(engine::Command command) {
    loop_->Submit(std::move(command), [this](const absl::StatusOr<engine::Reply>& reply, const service::View*) {
      replies_.push_back(reply.status());
    });
  }

  /// One tick that has to succeed.
  void Tick() { ASSERT_TRUE(loop_->RunOnce().ok()); }

  engine::Run GetRun(RunId id) {
    engine::Run found;
    loop_->Read([&](const absl::Status&, const service::View* view) { found = view->state.runs.at(id); });
    Tick();
    return found;
  }

  engine::Worker GetWorker(const std::string& name) {
    engine::Worker found;
    loop_->Read([&](const absl::Status&, const service::View* view) { found = view->state.workers.at({name}); });
    Tick();
    return found;
  }

  FakeClock clock_;
  std::shared_ptr<store::MemoryDisk> disk_ = std::make_shared<store::MemoryDisk>();
  std::unique_ptr<store::Store> memory_store_;
  std::unique_ptr<store::FaultyStore> store_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Loop> loop_;
  Recorder recorder_;
  std::vector<absl::Status> replies_;
};

TEST_F(LoopTest, AnswersAfterTheCommit) {
  int commits_at_answer = 0;
  loop_->Submit(MakeCreate("a"), [&](const absl::StatusOr<engine::Reply>& reply, const service::View* view) {
    ASSERT_TRUE(reply.ok());
    EXPECT_EQ(view->state.runs.size(), 1u);
    EXPECT_EQ(view->tally.all()[static_cast<size_t>(engine::RunState::kQueued)], 1);
    commits_at_answer = store_->num_commits;
  });
  Tick();
  EXPECT_EQ(commits_at_answer, 1);
}

TEST_F(LoopTest, CommitsAllThatWaitsInOneBatch) {
  for (int i = 0; i < 10; ++i) Submit(MakeCreate(std::to_string(i)));
  Tick();
  EXPECT_EQ(store_->num_commits, 1);
  EXPECT_EQ(replies_.size(), 10u);
}

TEST_F(LoopTest, AcknowledgesAndSendsNothingWhenTheCommitFails) {
  Submit(MakeHello("w"));
  Tick();
  const int ticks_before = recorder_.num_ticks;
  replies_.clear();

  store_->fails = true;
  Submit(MakeCreate("a"));
  bool was_read = false;
  loop_->Read([&](const absl::Status& status, const service::View* view) {
    was_read = true;
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(view, nullptr);
  });
  EXPECT_EQ(loop_->RunOnce().code(), absl::StatusCode::kResourceExhausted);
  ASSERT_EQ(replies_.size(), 1u);
  EXPECT_EQ(replies_[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(replies_[0].message()), HasSubstr("not stored"));
  EXPECT_TRUE(was_read);
  EXPECT_EQ(recorder_.num_ticks, ticks_before);
  EXPECT_EQ(recorder_.Count<engine::SendStart>(), 0);

  Submit(MakeCreate("b"));
  EXPECT_EQ(replies_.size(), 2u) << "a later command is answered at once";
  EXPECT_EQ(replies_[1].code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(memory_store_->Load()->runs, IsEmpty());
}

TEST_F(LoopTest, EndsRunWithTheErrorOfTheCommit) {
  store_->fails = true;
  Submit(MakeCreate("a"));
  EXPECT_EQ(loop_->Run().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(LoopTest, CommitsNothingForAHeartbeat) {
  Submit(MakeHello("w"));
  Tick();
  Submit(engine::WorkerHeartbeat{.worker = {"w"}, .incarnation = "i-1"});
  Tick();
  EXPECT_EQ(store_->num_commits, 0);
  EXPECT_EQ(recorder_.Count<engine::SendLeaseRenewed>(), 1);
}

TEST_F(LoopTest, PlacesARunInTheTickThatBroughtIt) {
  Submit(MakeHello("w"));
  Submit(MakeCreate("a"));
  Tick();
  EXPECT_EQ(recorder_.Count<engine::SendStart>(), 1);
  EXPECT_EQ(GetRun(kFirstRun).state, engine::RunState::kStarting);
  EXPECT_EQ(store_->num_commits, 1);
}

TEST_F(LoopTest, PlacesTheNextRunWhenAWorkerIsFreeAgain) {
  Submit(MakeHello("w"));
  Submit(MakeCreate("a", 2));
  Tick();
  Submit(MakeReport("w", 1, kFirstRun, engine::RankStarted{.first_step = 1}));
  Submit(MakeReport("w", 2, kFirstRun, engine::TrainerFinished{.step = 10}));
  Submit(MakeReport("w", 3, kFirstRun, engine::TrainerExited{.code = 0}));
  Tick();
  EXPECT_EQ(GetRun(kFirstRun).state, engine::RunState::kSucceeded);
  EXPECT_EQ(GetRun(kSecondRun).state, engine::RunState::kStarting);
  EXPECT_THAT(MakeMetricsPage(metrics_->Collect(std::nullopt), "").body,
              HasSubstr("normlab_attempts_total{outcome=\"succeeded\"} 1"));
}

TEST_F(LoopTest, EndsTheLeaseOfASilentWorkerAndQueuesItsRunAgain) {
  Submit(MakeHello("w"));
  Submit(MakeCreate("a"));
  Tick();
  clock_.Advance(engine::Options().lease - absl::Milliseconds(1));
  EXPECT_TRUE(GetWorker("w").has_lease);
  clock_.Advance(absl::Milliseconds(1));
  Tick();
  EXPECT_FALSE(GetWorker("w").has_lease);
  EXPECT_EQ(GetRun(kFirstRun).state, engine::RunState::kQueued);
  EXPECT_THAT(MakeMetricsPage(metrics_->Collect(std::nullopt), "").body, HasSubstr("normlab_leases_lost_total 1"));
  EXPECT_THAT(MakeMetricsPage(metrics_->Collect(std::nullopt), "").body,
              HasSubstr("normlab_attempts_total{outcome=\"lost\"} 1"));
}

TEST_F(LoopTest, CountsAHeartbeatThatWaitedWhileTheLoopWasHeldUp) {
  Submit(MakeHello("w"));
  Tick();
  Submit(engine::WorkerHeartbeat{.worker = {"w"}, .incarnation = "i-1"});
  clock_.Advance(2 * engine::Options().lease);
  Tick();
  EXPECT_TRUE(GetWorker("w").has_lease);
}

TEST_F(LoopTest, EndsNoLeaseWhenTheHostsClockIsSet) {
  Submit(MakeHello("w"));
  Tick();
  clock_.JumpWall(absl::Hours(48));
  Tick();
  EXPECT_TRUE(GetWorker("w").has_lease);
}

TEST_F(LoopTest, PlacesARunOnceItsBackoffIsOver) {
  Submit(MakeHello("w"));
  Submit(MakeCreate("a"));
  Tick();
  Submit(MakeReport("w", 1, kFirstRun, engine::TrainerExited{.signal = 9}));
  Tick();
  EXPECT_EQ(GetRun(kFirstRun).state, engine::RunState::kQueued);
  clock_.Advance(engine::Options().backoff_first * 2);
  Tick();
  EXPECT_EQ(GetRun(kFirstRun).attempt, 2);
}

TEST_F(LoopTest, KeepsLiveRunsThroughARestart) {
  Submit(MakeHello("w"));
  Submit(MakeCreate("a"));
  Tick();
  Restart();
  const engine::Run run = GetRun(kFirstRun);
  EXPECT_EQ(run.state, engine::RunState::kStarting);
  EXPECT_EQ(run.attempt, 1);
  EXPECT_TRUE(GetWorker("w").has_lease);
}

TEST_F(LoopTest, StoresTwoEventsOfOneRunInTwoCommits) {
  Submit(MakeCreate("a"));
  Tick();
  engine::CancelRuns cancel;
  cancel.selector.runs = {kFirstRun};
  cancel.actor = "ada";
  Submit(cancel);
  Tick();
  EXPECT_EQ(memory_store_->Events(kFirstRun)->size(), 2u);
}

TEST_F(LoopTest, ServesWhatWasQueuedBeforeStopAndRefusesTheRest) {
  std::thread thread([this] { EXPECT_TRUE(loop_->Run().ok()); });
  Submit(MakeCreate("a"));
  loop_->Stop();
  thread.join();
  Submit(MakeCreate("b"));
  ASSERT_EQ(replies_.size(), 2u);
  EXPECT_TRUE(replies_[0].ok());
  EXPECT_EQ(replies_[1].code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace normlab
