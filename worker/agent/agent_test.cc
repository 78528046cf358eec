// The whole agent in this process, against a coordinator of the test, with trainers that are shell scripts.
#include "worker/agent/agent.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "common/spec.h"
#include "common/testing/fake_clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/text_serializer.h"
#include "worker/agent/testing/fake_coordinator.h"
#include "worker/agent/testing/temp_folder.h"

namespace normlab::agent {
namespace {

using testing::HasSubstr;
using testing::Not;
using Messages = FakeCoordinator::WorkerMessages;

constexpr char kStarted[] = "echo '{\"started\":{\"first_step\":1,\"steps\":3}}'\n";
constexpr char kWait[] = "while :; do sleep 1000 & wait $!; done\n";
constexpr char kStopsOnSigterm[] = "trap 'echo \"{\\\"stopped\\\":{\\\"step\\\":5}}\"; exit 0' TERM\n";
constexpr char kIgnoresSigterm[] = "trap 'echo ignored' TERM\n";

bool HasEnded(const Messages& messages) { return FindExit(messages).has_value(); }
bool HasStarted(const Messages& messages) { return HasEvent(messages, v1::TrainerEvent::kStarted); }

AttemptKey Key(int run, int attempt = 1, int rank = 0) {
  return {.run = {.experiment = {.number = 1}, .index = run}, .attempt = attempt, .rank = rank};
}

v1::CoordinatorMessage StartOf(const AttemptKey& key) {
  v1::CoordinatorMessage message;
  v1::StartAttempt& start = *message.mutable_start();
  *start.mutable_attempt() = key.ToProto();
  start.set_world_size(1);
  start.mutable_spec()->mutable_data()->set_dataset("text");
  FillDefaults(start.mutable_spec());
  return message;
}

v1::CoordinatorMessage StopOf(const AttemptKey& key, int grace_seconds) {
  v1::CoordinatorMessage message;
  *message.mutable_stop()->mutable_attempt() = key.ToProto();
  message.mutable_stop()->mutable_grace()->set_seconds(grace_seconds);
  message.mutable_stop()->set_reason("cancelled by a test");
  return message;
}

class AgentTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(BecomeSubreaper().ok()); }

  ~AgentTest() override {
    if (!thread_.joinable()) return;
    agent_->RequestKill();
    thread_.join();
  }

  /// Starts an agent whose trainer is this shell script.
  void StartAgent(const std::string& trainer_body) {
    AgentOptions options = {.session = {.worker_id = "w1", .incarnation = "i1", .info = {}},
                            .folders = {.work = folder_.path() / "work",
                                        .data_root = folder_.path() / "data",
                                        .checkpoint_root = folder_.path() / "checkpoints"},
                            .trainer = {.trainer = folder_.Script("trainer", trainer_body).string(),
                                        .bind_host = "127.0.0.1",
                                        .threads = 1},
                            .stop_grace = absl::Seconds(30)};
    options.session.info.set_host("here");
    std::filesystem::create_directories(options.folders.data_root / "text");
    agent_ = std::make_unique<Agent>(std::move(options), OpenCoordinatorChannel(coordinator_.address(), {}), &clock_,
                                     &metrics_);
    thread_ = std::thread([this] { result_ = agent_->Run(); });
    ASSERT_TRUE(coordinator_.Await([](const Messages& messages) { return CountHellos(messages) >= 1; }));
  }
  /// Also runs the trainer, until it has said that it started.
  void StartAgentAndTrainer(const std::string& trainer_body) {
    StartAgent(trainer_body);
    SendWhenWelcome(StartOf(Key(1)));
    ASSERT_TRUE(coordinator_.Await(HasStarted));
  }
  void SendWhenWelcome(const v1::CoordinatorMessage& message) { ASSERT_TRUE(coordinator_.Send(message)); }

  /// Waits until the agent has handled all that was sent before: it answers a stop of what it never saw.
  void RoundTrip() {
    const AttemptKey probe = Key(1000 + num_round_trips_++);
    SendWhenWelcome(StopOf(probe, 0));
    ASSERT_TRUE(coordinator_.Await([&](const Messages& messages) {
      const auto reports = Reports(messages);
      return !reports.empty() && AttemptKey::FromProto(reports.back().attempt()) == probe;
    }));
  }

  void Advance(absl::Duration by) {
    clock_.Advance(by);
    agent_->Wake();
  }
  /// Lets time go by until `predicate` holds: what the agent does next has a random wait before it.
  template <typename Predicate>
  bool AwaitWhileTimeGoesBy(const Predicate& predicate) {
    for (int i = 0; i < 400; ++i) {
      if (coordinator_.AwaitFor(absl::Milliseconds(50), predicate)) return true;
      Advance(absl::Milliseconds(50));
    }
    return false;
  }
  absl::Status Join() {
    thread_.join();
    return result_;
  }
  std::string Scrape() { return prometheus::TextSerializer().Serialize(registry_.Collect()); }

  TempFolder folder_;
  FakeClock clock_;
  prometheus::Registry registry_;
  Metrics metrics_{registry_};
  FakeCoordinator coordinator_;
  std::unique_ptr<Agent> agent_;
  std::thread thread_;
  absl::Status result_;
  std::atomic<bool> is_joined_ = false;
  int num_round_trips_ = 0;
};

TEST_F(AgentTest, SaysHelloAndReportsAllThatTheTrainerSaysInOrder) {
  StartAgent(std::string(kStarted) + R"(
echo '{"step":{"step":1,"loss":5.5}}'
echo '{"layers":{"step":1,"layers":[{"layer":1,"output_variance":2.5}]}}'
echo '{"finished":{"step":1}}'
)");
  SendWhenWelcome(StartOf(Key(1)));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  const Messages messages = coordinator_.messages();
  EXPECT_EQ(messages[0].hello().worker_id(), "w1");
  EXPECT_EQ(messages[0].hello().incarnation(), "i1");
  EXPECT_EQ(messages[0].hello().info().host(), "here");
  EXPECT_EQ(messages[0].hello().running_size(), 0);
  EXPECT_GT(messages[0].hello().protocol_version(), 0);
  const auto reports = Reports(messages);
  ASSERT_EQ(reports.size(), 5u);
  for (size_t i = 0; i < reports.size(); ++i) {
    EXPECT_EQ(reports[i].sequence(), static_cast<int64_t>(i + 1));
    EXPECT_EQ(AttemptKey::FromProto(reports[i].attempt()), Key(1));
  }
  EXPECT_EQ(reports[1].event().step().loss(), 5.5);
  EXPECT_EQ(reports[2].event().layers().layers(0).output_variance(), 2.5);
  EXPECT_TRUE(reports[3].event().has_finished());
  EXPECT_EQ(reports[4].exit().code(), 0);
}

TEST_F(AgentTest, ServesTheRunsSeriesUntilItEnds) {
  StartAgent(std::string(kStopsOnSigterm) + R"(echo '{"step":{"step":1,"loss":5.5}}'
echo '{"layers":{"step":1,"layers":[{"layer":1,"output_variance":2.5}]}}'
)" + kStarted +
             kWait);
  SendWhenWelcome(StartOf(Key(1)));
  ASSERT_TRUE(coordinator_.Await(HasStarted));
  EXPECT_THAT(Scrape(), HasSubstr("normlab_layer_output_variance{"));
  EXPECT_THAT(Scrape(), HasSubstr("normlab_worker_trainer_starts_total 1"));
  SendWhenWelcome(StopOf(Key(1), 30));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  EXPECT_THAT(Scrape(), Not(HasSubstr("exp-0001")));
  EXPECT_THAT(Scrape(), HasSubstr("normlab_worker_trainer_exits_total{reason=\"stopped\"} 1"));
}

TEST_F(AgentTest, LeavesStepsOfOtherRanksToRankZero) {
  StartAgent("echo '{\"step\":{\"step\":1}}'\necho '{\"finished\":{\"step\":1}}'\n");
  SendWhenWelcome(StartOf(Key(1, 1, /*rank=*/1)));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  EXPECT_FALSE(HasEvent(coordinator_.messages(), v1::TrainerEvent::kStep));
  EXPECT_TRUE(HasEvent(coordinator_.messages(), v1::TrainerEvent::kFinished));
}

TEST_F(AgentTest, StartsAnAttemptOnceHoweverOftenItIsAsked) {
  StartAgent(std::string(kStopsOnSigterm) + kStarted + kWait);
  SendWhenWelcome(StartOf(Key(1)));
  SendWhenWelcome(StartOf(Key(1)));
  ASSERT_TRUE(coordinator_.Await(HasStarted));
  SendWhenWelcome(StopOf(Key(1), 30));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  SendWhenWelcome(StartOf(Key(1)));
  SendWhenWelcome(StartOf(Key(1, 2)));
  ASSERT_TRUE(coordinator_.Await([](const Messages& messages) {
    const auto reports = Reports(messages);
    return !reports.empty() && reports.back().event().has_started() && reports.back().attempt().attempt() == 2;
  }));
  SendWhenWelcome(StopOf(Key(1, 2), 30));
  ASSERT_TRUE(coordinator_.Await([](const Messages& messages) {
    const auto reports = Reports(messages);
    return !reports.empty() && reports.back().has_exit() && reports.back().attempt().attempt() == 2;
  }));
  EXPECT_THAT(Scrape(), HasSubstr("normlab_worker_trainer_starts_total 2"));
}

TEST_F(AgentTest, SendsUnacknowledgedReportsAgainAfterACoordinatorRestartAndKeepsTraining) {
  coordinator_.set_acknowledges(false);
  StartAgentAndTrainer(std::string(kStopsOnSigterm) + kStarted + kWait);
  coordinator_.Stop();
  coordinator_.set_acknowledges(true);
  coordinator_.Start();
  ASSERT_TRUE(AwaitWhileTimeGoesBy([](const Messages& messages) { return Reports(messages).size() >= 2; }));
  const Messages messages = coordinator_.messages();
  const auto second_hello =
      std::find_if(messages.begin() + 1, messages.end(), [](const auto& m) { return m.has_hello(); });
  ASSERT_NE(second_hello, messages.end());
  ASSERT_EQ(second_hello->hello().running_size(), 1);
  EXPECT_EQ(AttemptKey::FromProto(second_hello->hello().running(0)), Key(1));
  const auto reports = Reports(messages);
  EXPECT_EQ(reports[0].SerializeAsString(), reports[1].SerializeAsString());
  SendWhenWelcome(StopOf(Key(1), 30));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  EXPECT_EQ(FindExit(coordinator_.messages())->code(), 0);
  EXPECT_THAT(Scrape(), HasSubstr("normlab_worker_trainer_starts_total 1"));
}

TEST_F(AgentTest, ComesBackAfterARefusal) {
  coordinator_.RefuseOnce({grpc::StatusCode::FAILED_PRECONDITION, "protocol version 1 is not 2"});
  StartAgent("exit 0\n");
  EXPECT_TRUE(AwaitWhileTimeGoesBy([](const Messages& messages) { return CountHellos(messages) >= 2; }));
}

TEST_F(AgentTest, KillsWhatIsFencedAtOnce) {
  StartAgentAndTrainer(std::string(kIgnoresSigterm) + kStarted + kWait);
  coordinator_.FenceAtNextHello(Key(1).ToProto());
  coordinator_.Stop();
  coordinator_.Start();
  ASSERT_TRUE(AwaitWhileTimeGoesBy(HasEnded));
  EXPECT_EQ(FindExit(coordinator_.messages())->signal(), SIGKILL);
}

TEST_F(AgentTest, StopsATrainerThatHasNotEvenStarted) {
  StartAgent("echo loading\n" + std::string(kWait));
  SendWhenWelcome(StartOf(Key(1)));
  ASSERT_TRUE(coordinator_.Await([](const Messages& messages) { return HasEvent(messages, v1::TrainerEvent::kLog); }));
  SendWhenWelcome(StopOf(Key(1), 30));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  EXPECT_EQ(FindExit(coordinator_.messages())->signal(), SIGTERM);
}

TEST_F(AgentTest, KillsATrainerThatIgnoresSigtermAfterTheGrace) {
  StartAgentAndTrainer(std::string(kIgnoresSigterm) + kStarted + kWait);
  SendWhenWelcome(StopOf(Key(1), 20));
  ASSERT_TRUE(coordinator_.Await([](const Messages& messages) { return FindLog(messages, "ignored").has_value(); }));
  EXPECT_FALSE(HasEnded(coordinator_.messages()));
  Advance(absl::Seconds(20));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  EXPECT_EQ(FindExit(coordinator_.messages())->signal(), SIGKILL);
}

TEST_F(AgentTest, AnswersAStopOfWhatItNeverSawAndDoesNotStartItLater) {
  StartAgent("exit 0\n");
  SendWhenWelcome(StopOf(Key(1), 30));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  EXPECT_THAT(FindExit(coordinator_.messages())->detail(), HasSubstr("stopped before it was started"));
  SendWhenWelcome(StartOf(Key(1)));
  SendWhenWelcome(StartOf(Key(2)));
  ASSERT_TRUE(coordinator_.Await([](const Messages& messages) { return Reports(messages).size() == 2; }));
  EXPECT_EQ(AttemptKey::FromProto(Reports(coordinator_.messages())[1].attempt()), Key(2));
}

TEST_F(AgentTest, RefusesASecondAttemptWhileOneRuns) {
  StartAgentAndTrainer(std::string(kStarted) + kWait);
  SendWhenWelcome(StartOf(Key(2)));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  const auto report = Reports(coordinator_.messages()).back();
  EXPECT_EQ(AttemptKey::FromProto(report.attempt()), Key(2));
  EXPECT_THAT(report.exit().detail(), HasSubstr("this worker runs exp-0001.01.1.0"));
}

TEST_F(AgentTest, FailsARunForGoodWhoseDatasetIsMissing) {
  StartAgent("exit 0\n");
  v1::CoordinatorMessage start = StartOf(Key(1));
  start.mutable_start()->mutable_spec()->mutable_data()->set_dataset("nothing");
  SendWhenWelcome(start);
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  const auto reports = Reports(coordinator_.messages());
  ASSERT_EQ(reports.size(), 2u);
  EXPECT_FALSE(reports[0].event().failed().retryable());
  EXPECT_THAT(reports[0].event().failed().message(), HasSubstr("dataset 'nothing'"));
  EXPECT_FALSE(reports[1].exit().has_code());
  EXPECT_FALSE(reports[1].exit().has_signal());
}

TEST_F(AgentTest, ReportsATrainerThatCannotBeExecuted) {
  StartAgent("exit 0\n");
  std::filesystem::remove(folder_.path() / "trainer");
  SendWhenWelcome(StartOf(Key(1)));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  EXPECT_THAT(FindExit(coordinator_.messages())->detail(), HasSubstr("cannot execute"));
  EXPECT_FALSE(HasEvent(coordinator_.messages(), v1::TrainerEvent::kFailed)) << "another worker may have it";
}

TEST_F(AgentTest, KeepsTrainingUntilItsLeaseIsOverThenCheckpoints) {
  coordinator_.set_lease(absl::Seconds(30));
  StartAgentAndTrainer(std::string(kStopsOnSigterm) + kStarted + kWait);
  coordinator_.Stop();
  Advance(absl::Seconds(29));
  EXPECT_THAT(Scrape(), Not(HasSubstr("normlab_worker_trainer_exits_total{")));
  Advance(absl::Seconds(1));
  coordinator_.Start();
  ASSERT_TRUE(AwaitWhileTimeGoesBy(HasEnded));
  EXPECT_TRUE(HasEvent(coordinator_.messages(), v1::TrainerEvent::kStopped));
  EXPECT_THAT(FindExit(coordinator_.messages())->detail(), HasSubstr("the lease is over"));
}

TEST_F(AgentTest, RenewsItsLeaseWithHeartbeats) {
  coordinator_.set_lease(absl::Seconds(30));
  StartAgentAndTrainer(std::string(kStopsOnSigterm) + kStarted + kWait);
  for (size_t beat = 1; beat <= 10; ++beat) {
    Advance(absl::Seconds(10));
    ASSERT_TRUE(coordinator_.Await([&](const Messages& messages) {
      return static_cast<size_t>(std::count_if(messages.begin(), messages.end(),
                                               [](const auto& message) { return message.has_heartbeat(); })) >= beat;
    }));
    RoundTrip();
  }
  EXPECT_THAT(Scrape(), HasSubstr("normlab_worker_trainer_exits_total{reason=\"not_started\"} 10"));
  EXPECT_THAT(Scrape(), Not(HasSubstr("reason=\"stopped\"")));
}

TEST_F(AgentTest, OpensANewStreamWhenNobodyAnswersOnTheOldOne) {
  coordinator_.set_answers_heartbeats(false);
  coordinator_.set_lease(absl::Seconds(30));
  StartAgentAndTrainer(std::string(kStarted) + kWait);
  Advance(absl::Seconds(10));
  ASSERT_TRUE(coordinator_.Await([](const Messages& messages) { return messages.back().has_heartbeat(); }));
  Advance(absl::Seconds(20));
  EXPECT_TRUE(AwaitWhileTimeGoesBy([](const Messages& messages) { return CountHellos(messages) >= 2; }));
}

TEST_F(AgentTest, DrainsByTellingCheckpointingAndWaitingForTheAcknowledgement) {
  StartAgentAndTrainer(std::string(kStopsOnSigterm) + kStarted + kWait);
  agent_->RequestDrain();
  EXPECT_TRUE(Join().ok()) << result_;
  const Messages messages = coordinator_.messages();
  EXPECT_TRUE(
      std::any_of(messages.begin(), messages.end(), [](const auto& message) { return message.has_draining(); }));
  EXPECT_TRUE(HasEvent(messages, v1::TrainerEvent::kStopped));
  EXPECT_EQ(FindExit(messages)->code(), 0);
}

TEST_F(AgentTest, EndsAtOnceWhenNothingRuns) {
  StartAgent("exit 0\n");
  agent_->RequestDrain();
  EXPECT_TRUE(Join().ok()) << result_;
}

TEST_F(AgentTest, StartsNothingWhileItDrains) {
  StartAgentAndTrainer(std::string(kIgnoresSigterm) + kStarted + kWait);
  agent_->RequestDrain();
  ASSERT_TRUE(coordinator_.Await([](const Messages& messages) { return FindLog(messages, "ignored").has_value(); }));
  SendWhenWelcome(StopOf(Key(1), 0));
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  Join().IgnoreError();
  EXPECT_THAT(Scrape(), HasSubstr("normlab_worker_trainer_starts_total 1"));
}

TEST_F(AgentTest, GivesUpDrainingWhenNobodyAcknowledges) {
  coordinator_.set_acknowledges(false);
  StartAgentAndTrainer(std::string(kStopsOnSigterm) + kStarted + kWait);
  agent_->RequestDrain();
  ASSERT_TRUE(coordinator_.Await(HasEnded));
  std::thread time_goes_by([&] {
    while (!is_joined_) Advance(absl::Seconds(1));
  });
  const absl::Status status = Join();
  is_joined_ = true;
  time_goes_by.join();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

TEST_F(AgentTest, KillsTheTrainerWhenAskedTwiceToEnd) {
  StartAgentAndTrainer(std::string(kIgnoresSigterm) + kStarted + kWait);
  agent_->RequestDrain();
  ASSERT_TRUE(coordinator_.Await([](const Messages& messages) { return FindLog(messages, "ignored").has_value(); }));
  agent_->RequestKill();
  EXPECT_TRUE(absl::IsAborted(Join()));
}

}  // namespace
}  // namespace normlab::agent
