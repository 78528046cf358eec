// Kills the program at random moments and starts it again: a run must not tell that it was interrupted.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/inotify.h>

#include <chrono>
#include <csignal>
#include <random>

#include "worker/trainer/testing/train_process.h"
#include "worker/trainer/train/file_digest.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int kKills = 20;
constexpr int kSteps = 300;

/// Sees what is created in a folder.
class FolderWatch {
 public:
  explicit FolderWatch(const fs::path& folder) : fd_(inotify_init1(IN_CLOEXEC)) {
    inotify_add_watch(fd_, folder.c_str(), IN_CREATE);
  }
  FolderWatch(const FolderWatch&) = delete;
  FolderWatch& operator=(const FolderWatch&) = delete;
  ~FolderWatch() { close(fd_); }
  /// Returns when something is created, or after a minute.
  void Await() const {
    pollfd ready{.fd = fd_, .events = POLLIN, .revents = 0};
    poll(&ready, 1, 60'000);
  }

 private:
  int fd_;
};

void Spin(std::chrono::microseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

bool HasTornWrite(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().starts_with(".tmp-")) return true;
  }
  return false;
}

TEST_F(ProgramTest, KilledAtTwentyRandomMomentsItHasTheLossesAndWeightsOfNeverBeingKilled) {
  TrainerSpec spec = Spec("whole");
  spec.run.train.steps = kSteps;
  spec.run.report.checkpoint_every_steps = 3;
  spec.run.report.checkpoints_keep_every_steps = 100;
  spec.run.report.eval_every_steps = kSteps;
  Process whole(Arguments(spec));
  const std::map<int64_t, double> expected = Losses(whole.Rest());
  ASSERT_EQ(expected.size(), static_cast<size_t>(kSteps));
  const std::string weights = DigestFile(folder_ / "whole/step-00000300.attempt-001/model.safetensors").sha256;

  std::mt19937 random(20261124);
  const auto below = [&](unsigned limit) { return static_cast<int>(random() % limit); };
  int kills = 0, torn = 0;
  for (int run = 0; kills < kKills; ++run) {
    spec.checkpoint_dir = (folder_ / fmt::format("killed-{}", run)).string();
    fs::create_directories(spec.checkpoint_dir);
    std::map<int64_t, double> losses;
    bool is_finished = false;
    for (spec.attempt = 1; !is_finished; ++spec.attempt) {
      const FolderWatch watch(spec.checkpoint_dir);
      Process process(Arguments(spec));
      if (kills < kKills) {
        // A third each: before or right after an event, some time after one, while a checkpoint is written.
        const int kind = below(3);
        for (int left = below(8); left > 0; --left) {
          const nlohmann::json event = process.Next();
          if (event.is_object() && event.contains("step")) losses[event["step"]["step"]] = event["step"]["loss"];
        }
        if (kind == 1) Spin(std::chrono::microseconds(below(5000)));
        if (kind == 2) {
          watch.Await();
          Spin(std::chrono::microseconds(below(1500)));
        }
        process.Signal(SIGKILL);
      }
      for (const nlohmann::json& event : process.Rest()) {
        if (event.contains("step")) losses[event["step"]["step"]] = event["step"]["loss"];
        is_finished |= event.contains("finished");
      }
      const int status = process.Wait();
      if (status == 128 + SIGKILL && !is_finished) ++kills;
      EXPECT_TRUE(status == 0 || status == 128 + SIGKILL) << status;
      torn += HasTornWrite(spec.checkpoint_dir) ? 1 : 0;
      for (const auto& [step, loss] : losses) ASSERT_EQ(loss, expected.at(step)) << "update " << step;
    }
    EXPECT_EQ(losses.size(), static_cast<size_t>(kSteps)) << "every update was reported by some attempt";
    bool is_found = false;
    for (const auto& entry : fs::directory_iterator(spec.checkpoint_dir)) {
      if (!entry.path().filename().string().starts_with("step-00000300.")) continue;
      EXPECT_EQ(DigestFile(entry.path() / "model.safetensors").sha256, weights);
      is_found = true;
    }
    EXPECT_TRUE(is_found);
  }
  RecordProperty("torn_writes", torn);
  EXPECT_GE(torn, 1) << "no kill fell into the writing of a checkpoint";
}

TEST_F(ProgramTest, TheSameSpecAndSeedTwiceGivesTheSameBits) {
  std::string digests[2];
  std::map<int64_t, double> losses[2];
  for (const int i : {0, 1}) {
    Process process(Arguments(Spec(fmt::format("run-{}", i))));
    losses[i] = Losses(process.Rest());
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      digests[i] += DigestFile(folder_ / fmt::format("run-{}/step-00000012.attempt-001", i) / file).sha256;
    }
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_EQ(digests[0], digests[1]);
}

}  // namespace
}  // namespace normlab::trainer
