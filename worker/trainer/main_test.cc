// Runs the program itself: signals, gangs, crashes, exit statuses.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker/trainer/testing/tiny_dataset.h"
#include "worker/trainer/train/file_digest.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

/// One normlab-train process whose events are read line by line.
class Process {
 public:
  explicit Process(const std::vector<std::string>& arguments) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    std::vector<std::string> words = {NORMLAB_TRAIN};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, NORMLAB_TRAIN, &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    output_ = fdopen(ends[0], "r");
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (output_) fclose(output_);
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }

  std::optional<std::string> NextLine() {
    char* line = nullptr;
    size_t size = 0;
    const ssize_t length = getline(&line, &size, output_);
    std::optional<std::string> text;
    if (length > 0) text = std::string(line, static_cast<size_t>(length));
    free(line);
    return text;
  }
  /// The next event, or null at the end.
  json Next() {
    const auto line = NextLine();
    return line ? json::parse(*line) : json();
  }
  /// Reads until an event of this kind and returns it.
  json Await(const std::string& kind) {
    for (json event = Next(); !event.is_null(); event = Next()) {
      if (event.contains(kind)) return event[kind];
    }
    ADD_FAILURE() << "ended without " << kind;
    return {};
  }
  std::vector<json> Rest() {
    std::vector<json> events;
    for (json event = Next(); !event.is_null(); event = Next()) events.push_back(event);
    return events;
  }
  void Signal(int signal) const { kill(pid_, signal); }
  void CloseOutput() { fclose(std::exchange(output_, nullptr)); }
  /// Exit status, or 128 + the signal that killed it.
  int Wait() {
    int status = 0;
    waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = 0;
  FILE* output_ = nullptr;
};

class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("normlab_train_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
    WriteTinyDataset(folder_ / "data");
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainerSpec Spec(const std::string& checkpoints = "checkpoints") const {
    TrainerSpec spec = TinySpec(folder_);
    spec.checkpoint_dir = (folder_ / checkpoints).string();
    return spec;
  }
  /// A run that does not end by itself within a test.
  TrainerSpec EndlessSpec() const {
    TrainerSpec spec = Spec();
    spec.run.train.steps = 100'000'000;
    spec.run.report.checkpoint_every_steps = 100'000'000;
    spec.run.report.eval_every_steps = 100'000'000;
    return spec;
  }
  TrainerSpec Rank(TrainerSpec spec, int rank, const std::string& rendezvous = "") const {
    spec.world_size = 2;
    spec.rank = rank;
    spec.rendezvous = rendezvous;
    return spec;
  }
  std::vector<std::string> Arguments(const TrainerSpec& spec) {
    const std::string path = (folder_ / fmt::format("spec-{}.json", ++num_specs_)).string();
    std::ofstream(path) << ToJson(spec);
    return {"--spec", path};
  }
  static std::map<int64_t, double> Losses(const std::vector<json>& events) {
    std::map<int64_t, double> losses;
    for (const json& event : events) {
      if (event.contains("step")) losses[event["step"]["step"]] = event["step"]["loss"];
    }
    return losses;
  }

  fs::path folder_;
  int num_specs_ = 0;
};

TEST_F(ProgramTest, WritesEventsAndExitsZero) {
  Process process(Arguments(Spec()));
  const std::vector<json> events = process.Rest();
  EXPECT_TRUE(events.front().contains("started"));
  EXPECT_EQ(events.back(), json::parse(R"({"finished": {"step": 12, "diverged": false}})"));
  EXPECT_EQ(process.Wait(), 0);
}

TEST_F(ProgramTest, EventsMayGoToAFile) {
  std::vector<std::string> arguments = Arguments(Spec());
  arguments.insert(arguments.end(), {"--events", (folder_ / "events").string()});
  Process process(arguments);
  EXPECT_FALSE(process.NextLine());
  EXPECT_EQ(process.Wait(), 0);
  std::ifstream file(folder_ / "events");
  std::string first;
  std::getline(file, first);
  EXPECT_TRUE(json::parse(first).contains("started"));
}

TEST_F(ProgramTest, SigtermSavesAndExitsZeroAndTheRunGoesOn) {
  TrainerSpec endless = EndlessSpec();
  Process process(Arguments(endless));
  process.Await("step");
  process.Signal(SIGTERM);
  const std::vector<json> events = process.Rest();
  EXPECT_EQ(process.Wait(), 0);
  ASSERT_GE(events.size(), 2u);
  const json saved = events[events.size() - 2]["checkpoint"];
  ASSERT_TRUE(events.back().contains("stopped"));
  EXPECT_EQ(events.back()["stopped"]["step"], saved["step"]);
  endless.attempt = 2;
  Process again(Arguments(endless));
  EXPECT_EQ(again.Await("started")["resumed_from"], saved["name"]);
}

TEST_F(ProgramTest, KilledAndResumedIsBitwiseEqualToNotStopping) {
  Process whole(Arguments(Spec("whole")));
  const std::map<int64_t, double> expected = Losses(whole.Rest());
  ASSERT_EQ(expected.size(), 12u);

  TrainerSpec spec = Spec("killed");
  Process killed(Arguments(spec));
  killed.Await("checkpoint");
  killed.Signal(SIGKILL);
  std::map<int64_t, double> losses = Losses(killed.Rest());
  spec.attempt = 2;
  Process resumed(Arguments(spec));
  EXPECT_GE(resumed.Await("started")["first_step"], 5);
  for (const auto& [step, loss] : Losses(resumed.Rest())) losses[step] = loss;
  EXPECT_EQ(resumed.Wait(), 0);
  for (const auto& [step, loss] : losses) EXPECT_EQ(loss, expected.at(step)) << step;
  EXPECT_EQ(DigestFile(folder_ / "killed/step-00000012.attempt-002/model.safetensors").sha256,
            DigestFile(folder_ / "whole/step-00000012.attempt-001/model.safetensors").sha256);
}

TEST_F(ProgramTest, AGangHasTheLossesOfOneProcessWithTheSameBatch) {
  Process alone(Arguments(Spec("alone")));
  const std::vector<json> expected = alone.Rest();

  TrainerSpec gang = Spec("gang");
  gang.run.train.micro_batch_size = 1;  // Two micro batches per rank, synchronized once.
  Process first(Arguments(Rank(gang, 0)));
  const std::string address = first.Await("rendezvous_open")["address"];
  Process second(Arguments(Rank(gang, 1, address)));
  const std::vector<json> events = first.Rest();
  EXPECT_EQ(events.back(), expected.back());
  const std::map<int64_t, double> losses = Losses(events);
  ASSERT_EQ(losses.size(), 12u);
  // Sums in another order: float32 rounding, a little amplified by twelve updates.
  for (const auto& [step, loss] : Losses(expected)) EXPECT_NEAR(losses.at(step), loss, 1e-5) << step;
  const auto last_eval = [](const std::vector<json>& list) {
    json found;
    for (const json& event : list) found = event.contains("eval") ? event["eval"] : found;
    return found;
  };
  EXPECT_NEAR(last_eval(events)["loss"].get<double>(), last_eval(expected)["loss"].get<double>(), 1e-5);
  EXPECT_EQ(last_eval(events)["tokens"], last_eval(expected)["tokens"]);
  const std::vector<json> second_events = second.Rest();
  EXPECT_TRUE(second_events.front().contains("started"));
  EXPECT_EQ(second_events.size(), 2u) << "only rank 0 reports steps";
  EXPECT_EQ(first.Wait(), 0);
  EXPECT_EQ(second.Wait(), 0);
}

TEST_F(ProgramTest, AGangsCheckpointIsResumedByOneProcess) {
  TrainerSpec spec = EndlessSpec();
  Process first(Arguments(Rank(spec, 0)));
  Process second(Arguments(Rank(spec, 1, first.Await("rendezvous_open")["address"])));
  first.Await("step");
  second.Signal(SIGTERM);  // Either rank may be asked; all stop at one step.
  const json first_stopped = first.Await("stopped");
  EXPECT_EQ(second.Await("stopped"), first_stopped);
  EXPECT_EQ(first.Wait(), 0);
  EXPECT_EQ(second.Wait(), 0);
  spec.attempt = 2;
  Process alone(Arguments(spec));
  EXPECT_EQ(alone.Await("started")["first_step"], first_stopped["step"].get<int64_t>() + 1);
}

TEST_F(ProgramTest, APeerThatDiesFailsTheOthersAtOnceAndRetryably) {
  Process first(Arguments(Rank(EndlessSpec(), 0)));
  Process second(Arguments(Rank(EndlessSpec(), 1, first.Await("rendezvous_open")["address"])));
  first.Await("step");
  second.Signal(SIGKILL);
  EXPECT_EQ(first.Await("failed")["retryable"], true);
  EXPECT_EQ(first.Wait(), 1);

  Process third(Arguments(Rank(EndlessSpec(), 0)));
  Process fourth(Arguments(Rank(EndlessSpec(), 1, third.Await("rendezvous_open")["address"])));
  third.Await("step");
  third.Signal(SIGKILL);
  EXPECT_EQ(fourth.Await("failed")["retryable"], true);
  EXPECT_EQ(fourth.Wait(), 1);
}

TEST_F(ProgramTest, AGangOfDifferentRunsRefusesToTrain) {
  TrainerSpec other = Spec();
  other.run.seed = 2;
  Process first(Arguments(Rank(Spec(), 0)));
  Process second(Arguments(Rank(other, 1, first.Await("rendezvous_open")["address"])));
  const json failed = second.Await("failed");
  EXPECT_EQ(failed["message"], "rank 1 was given another run or attempt than rank 0 of its gang");
  EXPECT_EQ(failed["retryable"], false);
  EXPECT_EQ(second.Wait(), 1);
}

TEST_F(ProgramTest, SigtermWhileWaitingForTheGangEndsAtOnce) {
  Process first(Arguments(Rank(Spec(), 0)));
  first.Await("rendezvous_open");
  first.Signal(SIGTERM);
  EXPECT_EQ(first.Await("stopped")["step"], 0);
  EXPECT_EQ(first.Wait(), 0);
}

TEST_F(ProgramTest, WhatWouldFailAgainIsNotRetryable) {
  fs::remove(folder_ / "data" / "manifest.json");
  Process no_data(Arguments(Spec()));
  json failed = no_data.Await("failed");
  EXPECT_THAT(failed["message"].get<std::string>(), HasSubstr("manifest.json cannot be opened"));
  EXPECT_EQ(failed["retryable"], false);
  EXPECT_EQ(failed["step"], 0);
  EXPECT_EQ(no_data.Wait(), 1);

  Process no_spec({"--spec", (folder_ / "none.json").string()});
  failed = no_spec.Await("failed");
  EXPECT_EQ(failed["message"], "cannot open " + (folder_ / "none.json").string() + ": No such file or directory");
  EXPECT_EQ(failed["retryable"], false);
  EXPECT_EQ(no_spec.Wait(), 1);
}

TEST_F(ProgramTest, ATrainerWhoseReaderIsGoneEnds) {
  Process process(Arguments(EndlessSpec()));
  process.Await("step");
  process.CloseOutput();
  EXPECT_EQ(process.Wait(), 1);
}

TEST_F(ProgramTest, SaysItsVersionAndRefusesWrongUsage) {
  Process version({"--version"});
  EXPECT_THAT(*version.NextLine(), HasSubstr("normlab-train "));
  EXPECT_EQ(version.Wait(), 0);
  Process help({"--help"});
  EXPECT_THAT(*help.NextLine(), HasSubstr("normlab-train"));
  while (help.NextLine()) {
  }
  EXPECT_EQ(help.Wait(), 0);
  Process wrong({"--nonsense"});
  EXPECT_EQ(wrong.Wait(), 2);
}

}  // namespace
}  // namespace normlab::trainer
