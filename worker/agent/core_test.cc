// What the agent decides, without processes, network or waiting.
#include "worker/agent/core.h"

#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "common/testing/fake_clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace normlab::agent {
namespace {

using testing::HasSubstr;

/// What goes over the one stream that is there.
struct Wire {
  std::vector<v1::WorkerMessage> sent;
  std::vector<v1::CoordinatorMessage> arrived;
  std::optional<absl::Status> ended;  // Of the present stream; the next one takes it away.
};

class WireStream final : public Stream {
 public:
  explicit WireStream(Wire& wire) : wire_(wire) { wire_.ended.reset(); }
  void Send(v1::WorkerMessage message) override { wire_.sent.push_back(std::move(message)); }
  size_t backlog() const override { return 0; }
  void HalfClose() override {}
  void Cancel() override {}
  std::vector<v1::CoordinatorMessage> Take() override { return std::exchange(wire_.arrived, {}); }
  std::optional<absl::Status> ended() const override { return wire_.ended; }

 private:
  Wire& wire_;
};

class IdleTrainer final : public Trainer {
 public:
  std::vector<v1::TrainerEvent> Step() override { return {}; }
  const std::optional<v1::TrainerExit>& exit() const override { return exit_; }
  void Stop(absl::Duration, const std::string&) override { is_stopping_ = true; }
  bool is_stopping() const override { return is_stopping_; }
  absl::Time NextDeadline() const override { return absl::InfiniteFuture(); }

 private:
  bool is_stopping_ = false;
  std::optional<v1::TrainerExit> exit_;
};

class CoreTest : public testing::Test, private TrainerHost {
 protected:
  CoreTest() {
    core_.Step(kNone);
    Welcome();
    core_.Step(kNone);
  }

  void Welcome() {
    v1::CoordinatorMessage welcome;
    welcome.mutable_welcome()->mutable_lease()->set_seconds(30);
    welcome.mutable_welcome()->mutable_heartbeat_interval()->set_seconds(10);
    wire_.arrived.push_back(welcome);
  }

  void Start(int attempt) {
    v1::CoordinatorMessage message;
    *message.mutable_start()->mutable_attempt() = Ref(attempt);
    wire_.arrived.push_back(message);
  }
  void Stop(int attempt) {
    v1::CoordinatorMessage message;
    *message.mutable_stop()->mutable_attempt() = Ref(attempt);
    wire_.arrived.push_back(message);
  }
  static v1::AttemptRef Ref(int attempt) {
    return AttemptKey{.run = {.experiment = {.number = 1}, .index = 1}, .attempt = attempt}.ToProto();
  }
  /// Why the last exit that was reported came about.
  std::string LastExit() const {
    for (auto message = wire_.sent.rbegin(); message != wire_.sent.rend(); ++message) {
      if (message->report().has_exit()) return message->report().exit().detail();
    }
    return "";
  }

  static constexpr auto kNone = AgentCore::Request::kNone;
  Wire wire_;
  FakeClock clock_;
  int num_started_ = 0;
  AgentCore core_{{.session = {.worker_id = "w1", .incarnation = "i1"}},
                  [this] { return std::make_unique<WireStream>(wire_); },
                  &clock_,
                  this};

 private:
  absl::StatusOr<std::unique_ptr<Trainer>> StartTrainer(const AttemptKey&, const v1::StartAttempt&) override {
    ++num_started_;
    return std::make_unique<IdleTrainer>();
  }
  void OnEvent(const v1::TrainerEvent&) override {}
  void OnEnd(const AttemptKey&) override {}
  void OnNotStarted(const AttemptKey&, const std::string&) override {}
};

TEST_F(CoreTest, StartsWhatItIsAskedFor) {
  Start(1);
  core_.Step(kNone);
  EXPECT_EQ(num_started_, 1);
  EXPECT_TRUE(core_.has_trainer());
}

TEST_F(CoreTest, StartsNothingOnceItsLeaseIsOver) {
  // It stood still, and the start has waited for it meanwhile.
  Start(1);
  clock_.Advance(absl::Seconds(30));
  core_.Step(kNone);
  EXPECT_EQ(num_started_, 0);
  EXPECT_EQ(core_.NextDeadline(), absl::InfinitePast()) << "the report waits to be sent";
  core_.Step(kNone);
  EXPECT_THAT(LastExit(), HasSubstr("the lease is over"));
}

TEST_F(CoreTest, StartsWhatWaitedUntilTheLeaseWasRenewed) {
  clock_.Advance(absl::Seconds(10));
  core_.Step(kNone);  // A heartbeat.
  clock_.Advance(absl::Seconds(25));
  Start(1);
  v1::CoordinatorMessage renewed;
  renewed.mutable_lease_renewed();
  wire_.arrived.push_back(renewed);
  core_.Step(kNone);
  EXPECT_EQ(num_started_, 1);
}

TEST_F(CoreTest, StartsNothingFromAStreamThatHasEnded) {
  // The next stream's hello, which may go out in the same step, says that nothing runs.
  Start(1);
  wire_.ended = absl::UnavailableError("connection reset");
  core_.Step(kNone);
  clock_.Advance(absl::Seconds(5));
  core_.Step(kNone);
  ASSERT_TRUE(wire_.sent.back().has_hello());
  EXPECT_THAT(wire_.sent.back().hello().running(), testing::IsEmpty());
  EXPECT_EQ(num_started_, 0);
  Welcome();
  Start(1);
  core_.Step(kNone);
  EXPECT_EQ(num_started_, 1) << "asked for again";
}

TEST_F(CoreTest, StartsNothingInTheStepThatDrains) {
  Start(1);
  core_.Step(AgentCore::Request::kDrain);
  EXPECT_EQ(num_started_, 0);
  core_.Step(AgentCore::Request::kDrain);
  EXPECT_THAT(LastExit(), HasSubstr("this worker is ending"));
}

TEST_F(CoreTest, DoesNotStartWhatIsStoppedRightBehind) {
  Start(1);
  Stop(1);
  Start(2);
  core_.Step(kNone);
  EXPECT_EQ(num_started_, 1);
  EXPECT_THAT(LastExit(), HasSubstr("stopped before it was started"));
  EXPECT_TRUE(core_.has_trainer());
}

}  // namespace
}  // namespace normlab::agent
