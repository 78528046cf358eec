// The program normlab-worker itself, as a process that is killed.
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/agent/attempts.h"
#include "worker/agent/child.h"
#include "worker/agent/testing/fake_coordinator.h"
#include "worker/agent/testing/temp_folder.h"

namespace normlab::agent {
namespace {

using testing::HasSubstr;
using Messages = FakeCoordinator::WorkerMessages;

constexpr int kTimeoutMs = 20'000;

constexpr char kTrainer[] = R"(trap 'echo "{\"stopped\":{\"step\":5}}"; exit 0' TERM
echo "pid $$"
while :; do sleep 1000 & wait $!; done
)";

bool WaitForEnd(int pidfd) {
  pollfd fd = {.fd = pidfd, .events = POLLIN};
  return poll(&fd, 1, kTimeoutMs) == 1;
}

class WorkerProcessTest : public testing::Test {
 protected:
  std::vector<std::string> Arguments() {
    std::filesystem::create_directories(folder_.path() / "data" / "text");
    return {NORMLAB_WORKER,
            "--id",
            "w1",
            "--coordinator",
            coordinator_.address(),
            "--work",
            (folder_.path() / "work").string(),
            "--data-root",
            (folder_.path() / "data").string(),
            "--checkpoint-root",
            (folder_.path() / "checkpoints").string(),
            "--metrics",
            "127.0.0.1:0",
            "--trainer",
            folder_.Script("trainer", kTrainer).string()};
  }

  std::unique_ptr<Child> Spawn(const std::vector<std::string>& arguments) {
    auto child = Child::Spawn({.argv = arguments, .folder = folder_.path().string()});
    EXPECT_TRUE(child.ok()) << child.status();
    return *std::move(child);
  }

  struct Ended {
    ChildExit exit;
    std::string err;
  };
  /// Waits for the end and takes what it wrote to stderr.
  static Ended WaitFor(Child& child) {
    EXPECT_TRUE(WaitForEnd(child.pidfd()));
    std::string err(1 << 16, '\0');
    const ssize_t bytes = read(child.err().get(), err.data(), err.size());
    err.resize(static_cast<size_t>(std::max<ssize_t>(bytes, 0)));
    return {.exit = child.TryReap().value_or(ChildExit{}), .err = err};
  }

  /// Starts the trainer and opens a pidfd of it.
  FileDescriptor StartTrainer() {
    EXPECT_TRUE(coordinator_.Await([](const Messages& messages) { return CountHellos(messages) == 1; }));
    v1::CoordinatorMessage message;
    v1::StartAttempt& start = *message.mutable_start();
    *start.mutable_attempt() = key_.ToProto();
    start.set_world_size(1);
    start.mutable_spec()->mutable_data()->set_dataset("text");
    FillDefaults(start.mutable_spec());
    EXPECT_TRUE(coordinator_.Send(message));
    EXPECT_TRUE(coordinator_.Await([](const Messages& messages) { return FindLog(messages, "pid ").has_value(); }));
    const pid_t pid = std::stoi(FindLog(coordinator_.messages(), "pid ").value_or("0"));
    return FileDescriptor(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  }

  TempFolder folder_;
  FakeCoordinator coordinator_;
  const AttemptKey key_ = {.run = {.experiment = {.number = 1}, .index = 1}, .attempt = 1};
};

TEST_F(WorkerProcessTest, TakesItsTrainerWithItWhenItIsKilled) {
  const auto worker = Spawn(Arguments());
  const FileDescriptor trainer = StartTrainer();
  ASSERT_TRUE(trainer.is_open());
  kill(worker->pid(), SIGKILL);
  EXPECT_TRUE(WaitForEnd(trainer.get())) << "the trainer outlived its agent";
}

TEST_F(WorkerProcessTest, LetsTheTrainerCheckpointOnSigtermAndEndsWithZero) {
  const auto worker = Spawn(Arguments());
  const FileDescriptor trainer = StartTrainer();
  kill(worker->pid(), SIGTERM);
  const Ended ended = WaitFor(*worker);
  EXPECT_EQ(ended.exit.code, 0) << ended.err;
  EXPECT_TRUE(HasEvent(coordinator_.messages(), v1::TrainerEvent::kStopped));
  EXPECT_EQ(FindExit(coordinator_.messages())->code(), 0);
}

TEST_F(WorkerProcessTest, HasANewIncarnationAtEachStart) {
  for (int i = 0; i < 2; ++i) {
    const auto worker = Spawn(Arguments());
    ASSERT_TRUE(coordinator_.Await([&](const Messages& messages) { return CountHellos(messages) == size_t(i) + 1; }));
    kill(worker->pid(), SIGKILL);
    WaitFor(*worker);
  }
  std::vector<std::string> incarnations;
  for (const auto& message : coordinator_.messages()) {
    if (message.has_hello()) incarnations.push_back(message.hello().incarnation());
  }
  EXPECT_NE(incarnations[0], incarnations[1]);
}

TEST_F(WorkerProcessTest, RefusesAWorkFolderThatIsInUse) {
  const auto first = Spawn(Arguments());
  ASSERT_TRUE(coordinator_.Await([](const Messages& messages) { return CountHellos(messages) == 1; }));
  const Ended ended = WaitFor(*Spawn(Arguments()));
  EXPECT_EQ(ended.exit.code, 1);
  EXPECT_THAT(ended.err, HasSubstr(fmt::format("is used by another worker (process {})", first->pid())));
}

TEST_F(WorkerProcessTest, RefusesAMetricsPortThatIsInUse) {
  auto arguments = Arguments();
  *(std::find(arguments.begin(), arguments.end(), "--metrics") + 1) = coordinator_.address();
  const Ended ended = WaitFor(*Spawn(arguments));
  EXPECT_EQ(ended.exit.code, 1);
  EXPECT_THAT(ended.err, HasSubstr(fmt::format("--metrics {}: cannot listen there", coordinator_.address())));
}

TEST_F(WorkerProcessTest, RefusesPlaintextBeyondLoopback) {
  auto arguments = Arguments();
  *(std::find(arguments.begin(), arguments.end(), "--coordinator") + 1) = "192.0.2.1:7070";
  const Ended ended = WaitFor(*Spawn(arguments));
  EXPECT_EQ(ended.exit.code, 1);
  EXPECT_THAT(ended.err, HasSubstr("nothing is encrypted"));
  arguments.push_back("--plaintext");
  EXPECT_THAT(WaitFor(*Spawn(arguments)).err, HasSubstr("nothing is encrypted")) << "once is not twice";
}

TEST_F(WorkerProcessTest, RefusesWrongFlagsWithTwo) {
  EXPECT_EQ(WaitFor(*Spawn({NORMLAB_WORKER, "--id", "w1"})).exit.code, 2);
  auto arguments = Arguments();
  arguments.insert(arguments.end(), {"--label", "noequals"});
  const Ended ended = WaitFor(*Spawn(arguments));
  EXPECT_EQ(ended.exit.code, 2);
  EXPECT_THAT(ended.err, HasSubstr("--label 'noequals' is not KEY=VALUE"));
}

TEST_F(WorkerProcessTest, ExplainsItself) {
  const auto worker = Spawn({NORMLAB_WORKER, "--help"});
  ASSERT_TRUE(WaitForEnd(worker->pidfd()));
  std::string out(1 << 16, '\0');
  out.resize(static_cast<size_t>(read(worker->out().get(), out.data(), out.size())));
  EXPECT_THAT(out, HasSubstr("Example:"));
  EXPECT_EQ(WaitFor(*worker).exit.code, 0);
}

}  // namespace
}  // namespace normlab::agent
