#include "cli/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include "absl/time/clock.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;

class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::path(::testing::TempDir()) / ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(path_);
    auto root = RootFolder::Lock(path_);
    ASSERT_TRUE(root.ok()) << root.status();
    root_.emplace(*std::move(root));
  }
  void TearDown() override {
    root_.reset();
    fs::remove_all(path_);
  }

  static Daemon Shell(const std::string& name, const std::string& script) { return {name, {"/bin/sh", "-c", script}}; }
  std::string LogOf(const std::string& name) {
    std::ifstream file(root_->Log(name));
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  /// For WaitUntil: true once `text` is in the log.
  std::function<bool()> Says(const std::string& name, const std::string& text) {
    return [this, name, text] {
      interrupt_.WaitFor(absl::Milliseconds(1));
      return LogOf(name).find(text) != std::string::npos;
    };
  }

  fs::path path_;
  std::optional<RootFolder> root_;
  Interrupt interrupt_;
  std::vector<std::string> said_;
};

TEST_F(SupervisorTest, ADaemonThatEndsAtItsStartIsReportedWithTheEndOfItsLog) {
  Supervisor supervisor(*root_, interrupt_, [](const std::string&) {});
  ASSERT_TRUE(supervisor.Start(Shell("bad", "echo port in use; exit 3")).ok());
  const absl::Status status = supervisor.WaitUntil(
      "bad", [] { return false; }, absl::Seconds(30));
  EXPECT_THAT(std::string(status.message()), HasSubstr("bad ended at its start (exit code 3)"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("port in use"));
}

TEST_F(SupervisorTest, AProgramThatCannotBeStartedIsNamed) {
  Supervisor supervisor(*root_, interrupt_, [](const std::string&) {});
  EXPECT_THAT(std::string(supervisor.Start({"none", {"/nonexistent/program"}}).message()),
              HasSubstr("cannot start /nonexistent/program: No such file or directory"));
}

TEST_F(SupervisorTest, ADaemonThatDiesIsStartedAgainAndTheFirstOneStopsLast) {
  {
    Supervisor supervisor(*root_, interrupt_, [this](const std::string& text) { said_.push_back(text); });
    const std::string trap = "trap 'echo $0 stopped >> " + (path_ / "order").string() + "; exit 0' TERM; ";
    const std::string wait = "echo ready; while :; do sleep 0.01; done";
    ASSERT_TRUE(supervisor.Start({"first", {"/bin/sh", "-c", trap + wait, "first"}}).ok());
    // The second time it stays, and interrupts us as a user would.
    const std::string once = "if [ ! -e " + (path_ / "died").string() + " ]; then touch " + (path_ / "died").string() +
                             "; kill -9 $$; fi; kill -INT " + std::to_string(getpid()) + "; ";
    ASSERT_TRUE(supervisor.Start({"second", {"/bin/sh", "-c", trap + once + wait, "second"}}).ok());
    ASSERT_TRUE(supervisor.WaitUntil("first", Says("first", "ready"), absl::Seconds(30)).ok());
    supervisor.Run();
    supervisor.Stop();
  }
  EXPECT_THAT(said_, Contains(HasSubstr("second ended (signal 9 (Killed)); starting it again in 500ms")));
  std::ifstream order(path_ / "order");
  std::string first, second;
  std::getline(order, first);
  std::getline(order, second);
  EXPECT_EQ(first, "second stopped");
  EXPECT_EQ(second, "first stopped");
}

TEST_F(SupervisorTest, AChildGetsSigtermWhenItsParentDies) {
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  const auto wait_for = [&](const char* word) {
    while (LogOf("child").find(word) == std::string::npos && absl::Now() < deadline) usleep(1000);
  };
  const pid_t parent = fork();
  if (parent == 0) {
    sigset_t none;
    sigemptyset(&none);
    auto child = ChildProcess::Start(
        {"/bin/sh", "-c", "trap 'echo orphaned; exit 0' TERM; echo ready; while :; do sleep 0.01; done"},
        root_->Log("child"), none);
    wait_for("ready");
    kill(getpid(), SIGKILL);  // Nothing of ours runs any more.
  }
  int status = 0;
  waitpid(parent, &status, 0);
  wait_for("orphaned");
  EXPECT_THAT(LogOf("child"), HasSubstr("orphaned"));
}

TEST_F(SupervisorTest, ARootInUseIsRefusedWithItsOwner) {
  ASSERT_TRUE(root_->WritePid().ok());
  EXPECT_EQ(OwnerOf(path_), getpid());
  const auto second = RootFolder::Lock(path_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("pid " + std::to_string(getpid())));
  root_.reset();
  EXPECT_EQ(OwnerOf(path_), std::nullopt);
}

}  // namespace
}  // namespace normlab::cli
