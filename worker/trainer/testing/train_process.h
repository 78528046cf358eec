#pragma once

#include <fcntl.h>
#include <fmt/format.h>
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

// For tests that run the program itself.
namespace normlab::trainer {

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
  nlohmann::json Next() {
    const auto line = NextLine();
    return line ? nlohmann::json::parse(*line) : nlohmann::json();
  }
  /// Reads until an event of this kind and returns it.
  nlohmann::json Await(const std::string& kind) {
    for (nlohmann::json event = Next(); !event.is_null(); event = Next()) {
      if (event.contains(kind)) return event[kind];
    }
    ADD_FAILURE() << "ended without " << kind;
    return {};
  }
  std::vector<nlohmann::json> Rest() {
    std::vector<nlohmann::json> events;
    for (nlohmann::json event = Next(); !event.is_null(); event = Next()) events.push_back(event);
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
    folder_ = std::filesystem::path(::testing::TempDir()) / fmt::format("normlab_train_{}_{}", info->name(), getpid());
    std::filesystem::remove_all(folder_);
    WriteTinyDataset(folder_ / "data");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

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
  static std::map<int64_t, double> Losses(const std::vector<nlohmann::json>& events) {
    std::map<int64_t, double> losses;
    for (const nlohmann::json& event : events) {
      if (event.contains("step")) losses[event["step"]["step"]] = event["step"]["loss"];
    }
    return losses;
  }

  std::filesystem::path folder_;
  int num_specs_ = 0;
};

}  // namespace normlab::trainer
