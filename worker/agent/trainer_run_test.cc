// Real processes; nothing here waits for a time, only for what a process does.
#include "worker/agent/trainer_run.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "common/testing/fake_clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/agent/testing/temp_folder.h"

namespace normlab::agent {
namespace {

using testing::HasSubstr;

// Says that it is ready, and waits for a signal in a way that lets sh run its trap.
constexpr char kReadyAndWait[] = "echo ready\nwhile :; do sleep 1000 & wait $!; done\n";

class TrainerRunTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(BecomeSubreaper().ok()); }

  void Start(const std::string& body) {
    const PreparedAttempt prepared = {
        .child = {.argv = {folder_.Script("trainer", body).string(), "--spec", "x"}, .folder = folder_.path().string()},
        .stderr_log = folder_.path() / "stderr.log",
        .progress = progress_};
    auto run = TrainerRun::Start(prepared, &clock_);
    ASSERT_TRUE(run.ok()) << run.status();
    run_ = *std::move(run);
  }

  /// Steps until `is_done`, as the agent's loop does.
  void StepUntil(const std::function<bool()>& is_done) {
    const absl::Time give_up = absl::Now() + absl::Seconds(20);
    while (!is_done()) {
      ASSERT_LT(absl::Now(), give_up) << "the trainer did not do what the test waits for";
      for (auto& event : run_->Step()) events_.push_back(std::move(event));
      if (is_done()) return;
      std::vector<pollfd> fds;
      run_->AddPollFds(fds);
      poll(fds.data(), fds.size(), fds.empty() ? 10 : 1000);
    }
  }
  void StepUntilExit() {
    StepUntil([&] { return run_->exit().has_value(); });
  }
  void StepUntilLog(const std::string& text) {
    StepUntil([&] { return LogWith(text).has_value(); });
  }
  std::optional<std::string> LogWith(const std::string& prefix) {
    for (const auto& event : events_) {
      if (event.has_log() && event.log().text().starts_with(prefix)) return event.log().text().substr(prefix.size());
    }
    return std::nullopt;
  }

  TempFolder folder_;
  ProgressWatch::Options progress_;
  FakeClock clock_;
  std::unique_ptr<TrainerRun> run_;
  std::vector<v1::TrainerEvent> events_;
};

TEST_F(TrainerRunTest, HandsOverEventsInOrderAndThenTheExit) {
  Start(R"(echo '{"started":{"first_step":1}}'
for i in 1 2 3; do echo "{\"step\":{\"step\":$i}}"; done
printf '{"finished":{"step":3}}'
)");
  StepUntilExit();
  ASSERT_EQ(events_.size(), 5u);
  EXPECT_TRUE(events_[0].has_started());
  EXPECT_EQ(events_[3].step().step(), 3);
  EXPECT_TRUE(events_[4].has_finished()) << "also without a newline at its end";
  EXPECT_EQ(run_->exit()->code(), 0);
  EXPECT_FALSE(run_->exit()->has_signal());
  EXPECT_EQ(run_->exit_reason(), ExitReason::kFinished);
}

TEST_F(TrainerRunTest, TellsTheCodeAndTheLastLinesOfStderr) {
  Start("for i in $(seq 30); do echo \"line $i\" >&2; done; exit 3\n");
  StepUntilExit();
  EXPECT_EQ(run_->exit()->code(), 3);
  EXPECT_THAT(run_->exit()->detail(), HasSubstr("exited with code 3"));
  EXPECT_THAT(run_->exit()->detail(), HasSubstr("line 11\n"));
  EXPECT_THAT(run_->exit()->detail(), testing::EndsWith("line 30"));
  EXPECT_THAT(run_->exit()->detail(), testing::Not(HasSubstr("line 10\n")));
  EXPECT_EQ(run_->exit_reason(), ExitReason::kCrashed);
  EXPECT_THAT(ReadText(folder_.path() / "stderr.log"), HasSubstr("line 1\nline 2\n"));
  EXPECT_TRUE(LogWith("line 1").has_value());
}

TEST_F(TrainerRunTest, TellsTheSignal) {
  Start("kill -SEGV $$\n");
  StepUntilExit();
  EXPECT_FALSE(run_->exit()->has_code());
  EXPECT_EQ(run_->exit()->signal(), SIGSEGV);
}

TEST_F(TrainerRunTest, StopsWithSigtermSoThatItCanCheckpoint) {
  Start(std::string("trap 'echo \"{\\\"stopped\\\":{\\\"step\\\":5}}\"; exit 0' TERM\n") + kReadyAndWait);
  StepUntilLog("ready");
  run_->Stop(absl::Seconds(30), "cancelled");
  StepUntilExit();
  EXPECT_EQ(run_->exit()->code(), 0);
  EXPECT_EQ(run_->exit_reason(), ExitReason::kStopped);
  EXPECT_EQ(events_.back().stopped().step(), 5);
  EXPECT_THAT(run_->exit()->detail(), HasSubstr("cancelled"));
}

TEST_F(TrainerRunTest, IsKilledAfterTheGraceAndNotBeforeIfItIgnoresSigterm) {
  Start(std::string("trap 'echo ignored' TERM\n") + kReadyAndWait);
  StepUntilLog("ready");
  run_->Stop(absl::Seconds(30), "cancelled");
  StepUntilLog("ignored");
  clock_.Advance(absl::Seconds(29));
  run_->Step();
  EXPECT_EQ(run_->NextDeadline(), clock_.SteadyNow() + absl::Seconds(1));
  EXPECT_FALSE(run_->exit().has_value());
  clock_.Advance(absl::Seconds(1));
  StepUntilExit();
  EXPECT_EQ(run_->exit()->signal(), SIGKILL);
  EXPECT_EQ(run_->exit_reason(), ExitReason::kKilled);
}

TEST_F(TrainerRunTest, ASecondStopComesEarlierAndNeverLater) {
  Start(std::string("trap 'echo ignored' TERM\n") + kReadyAndWait);
  StepUntilLog("ready");
  run_->Stop(absl::Seconds(30), "cancelled");
  run_->Stop(absl::Seconds(60), "cancelled again");
  EXPECT_EQ(run_->NextDeadline(), clock_.SteadyNow() + absl::Seconds(30));
  run_->Stop(absl::ZeroDuration(), "fenced");
  StepUntilExit();
  EXPECT_EQ(run_->exit()->signal(), SIGKILL);
  EXPECT_THAT(run_->exit()->detail(), HasSubstr("fenced"));
}

TEST_F(TrainerRunTest, IsStoppedEvenIfItIsFrozen) {
  Start("echo ready\nkill -STOP $$\n");
  StepUntilLog("ready");
  run_->Stop(absl::ZeroDuration(), "fenced");
  StepUntilExit();
  EXPECT_EQ(run_->exit()->signal(), SIGKILL);
}

TEST_F(TrainerRunTest, IsKilledIfItHangsAfterItsLastWord) {
  Start(std::string("echo '{\"finished\":{\"step\":3}}'\n") + kReadyAndWait);
  StepUntilLog("ready");
  clock_.Advance(absl::Seconds(60));
  StepUntilExit();
  EXPECT_EQ(run_->exit()->signal(), SIGKILL);
  EXPECT_THAT(run_->exit()->detail(), HasSubstr("did not end"));
  EXPECT_EQ(run_->exit_reason(), ExitReason::kFinished);
}

/// Whether the process is there, zombies included.
bool Exists(pid_t pid) { return kill(pid, 0) == 0; }

TEST_F(TrainerRunTest, LeavesNoGrandchildBehind) {
  Start("sleep 1000 &\necho \"grandchild $!\"\nexit 0\n");
  StepUntilExit();
  const auto pid = LogWith("grandchild ");
  ASSERT_TRUE(pid.has_value());
  EXPECT_FALSE(Exists(std::stoi(*pid)));
}

TEST_F(TrainerRunTest, LeavesNoGrandchildBehindThatLeftTheGroup) {
  Start("setsid sh -c 'echo \"grandchild $$\"; exec sleep 1000' &\nread line < \"$0\"\nwait\n");
  StepUntilLog("grandchild ");
  run_->Stop(absl::ZeroDuration(), "fenced");
  StepUntilExit();
  EXPECT_FALSE(Exists(std::stoi(*LogWith("grandchild "))));
}

TEST_F(TrainerRunTest, IsKilledWhenItsOwnerIsDestroyed) {
  Start(std::string("trap '' TERM\n") + kReadyAndWait);
  StepUntilLog("ready");
  const pid_t pid = run_->pid();
  run_.reset();
  EXPECT_FALSE(Exists(pid));
}

TEST_F(TrainerRunTest, GivesTheTrainerNoDescriptorsAndNoSignalsOfItsOwn) {
  const int inherited = dup(STDERR_FILENO);  // Not close-on-exec.
  signal(SIGPIPE, SIG_IGN);
  Start("ls /proc/self/fd | tr '\\n' ' '\necho\ngrep -h 'SigIgn\\|SigBlk' /proc/self/status\n");
  StepUntilExit();
  close(inherited);
  signal(SIGPIPE, SIG_DFL);
  EXPECT_EQ(LogWith("0 1 2 3"), " ") << "3 is the listed folder itself";
  EXPECT_EQ(LogWith("SigIgn:\t"), "0000000000000000");
  EXPECT_EQ(LogWith("SigBlk:\t"), "0000000000000000");
}

TEST_F(TrainerRunTest, SendsAFloodOfLinesInPartAndCountsTheRest) {
  Start("seq 5000 >&2\n");
  StepUntilExit();
  EXPECT_LE(events_.size(), 1101u);
  EXPECT_THAT(events_.back().log().text(), HasSubstr("4000 log lines were not sent"));
}

TEST_F(TrainerRunTest, SaysWhyItCannotExecute) {
  const std::filesystem::path missing = folder_.path() / "missing";
  const auto run = TrainerRun::Start({.child = {.argv = {missing.string()}, .folder = folder_.path().string()},
                                      .stderr_log = folder_.path() / "stderr.log"},
                                     &clock_);
  EXPECT_TRUE(absl::IsNotFound(run.status()));
  EXPECT_THAT(std::string(run.status().message()), HasSubstr(missing.string()));
  std::ofstream(folder_.path() / "text") << "no program";
  EXPECT_TRUE(absl::IsPermissionDenied(
      TrainerRun::Start({.child = {.argv = {(folder_.path() / "text").string()}, .folder = folder_.path().string()},
                         .stderr_log = folder_.path() / "stderr.log"},
                        &clock_)
          .status()));
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "no child is left";
}

TEST_F(TrainerRunTest, ATrainerWithoutProgressIsKilledAndItsExitSaysThatItWasStuck) {
  progress_ = {.timeout = absl::Seconds(60)};
  Start("trap '' TERM\necho '{\"started\":{\"first_step\":1}}'\necho '{\"step\":{\"step\":1}}'\n" +
        std::string(kReadyAndWait));
  StepUntilLog("ready");
  clock_.Advance(absl::Seconds(59));
  EXPECT_TRUE(run_->Step().empty());
  EXPECT_FALSE(run_->is_stopping());
  clock_.Advance(absl::Seconds(1));
  StepUntilExit();
  EXPECT_EQ(run_->exit()->cause(), v1::CAUSE_TRAINER_STUCK);
  EXPECT_EQ(run_->exit()->signal(), SIGKILL);
  EXPECT_THAT(run_->exit()->detail(), HasSubstr("no progress for 1m"));
}

TEST_F(TrainerRunTest, ALongEvaluationThatGetsOnIsProgressAndNoEvent) {
  progress_ = {.timeout = absl::Seconds(60)};
  // Two pipes: a second reader of one can still find the first writer there, and then its end.
  Start(
      "mkfifo first second\necho '{\"step\":{\"step\":1}}'\necho ready\nread word < first\n"
      "echo '{\"evaluating\":{\"step\":1,\"sequences_done\":8,\"sequences\":900}}'\necho seen\nread word < second\n");
  StepUntilLog("ready");
  clock_.Advance(absl::Seconds(59));
  std::ofstream(folder_.path() / "first") << "on\n";
  StepUntilLog("seen");
  clock_.Advance(absl::Seconds(59));
  run_->Step();
  EXPECT_FALSE(run_->is_stopping());
  std::ofstream(folder_.path() / "second") << "on\n";
  StepUntilExit();
  EXPECT_EQ(run_->exit()->code(), 0);
  for (const v1::TrainerEvent& event : events_) EXPECT_FALSE(event.has_evaluating());
}

}  // namespace
}  // namespace normlab::agent
