// Runs the program itself: signals, gangs, crashes, exit statuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "worker/trainer/testing/train_process.h"
#include "worker/trainer/train/file_digest.h"
#include "worker/trainer/train/safetensors.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

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

TEST_F(ProgramTest, AGangTrainsTheHybridAsOneProcessDoesWithItsMicroBatches) {
  TrainerSpec spec = Spec("alone");
  spec.run.model.family = "minimax";
  spec.run.model.num_layers = 4;
  spec.run.model.softmax_every = 4;
  spec.run.norm.scheme = "deepnorm";
  // Experts fill and balance within a micro batch, so the same ones make the same updates.
  spec.run.train.micro_batch_size = 2;
  Process alone(Arguments(spec));
  const std::map<int64_t, double> expected = Losses(alone.Rest());
  spec.checkpoint_dir = (folder_ / "gang").string();
  Process first(Arguments(Rank(spec, 0)));
  Process second(Arguments(Rank(spec, 1, first.Await("rendezvous_open")["address"])));
  const std::map<int64_t, double> losses = Losses(first.Rest());
  second.Rest();
  ASSERT_EQ(losses.size(), 12u);
  for (const auto& [step, loss] : expected) EXPECT_NEAR(losses.at(step), loss, 1e-5) << step;
  EXPECT_LT(losses.at(12), losses.at(1));
}

std::map<std::string, std::vector<float>> Arrays(const fs::path& file) {
  const SafetensorsReader reader(file);
  std::map<std::string, std::vector<float>> arrays;
  for (const std::string& name : reader.Names()) {
    const std::vector<int64_t> shape = *reader.FindShape(name);
    int64_t size = 1;
    for (const int64_t dim : shape) size *= dim;
    arrays[name].resize(static_cast<size_t>(size));
    reader.Read(name, shape, arrays[name]);
  }
  return arrays;
}

TEST_F(ProgramTest, AGangsGradientsAreThoseOfOneProcessAlsoWithUnequalNumbersOfTargets) {
  WriteTinyPromptDataset(folder_ / "data");
  TrainerSpec spec = Spec("alone");
  spec.run.train.steps = 1;
  spec.run.train.warmup_steps = 0;
  spec.run.train.grad_norm_max = 0;
  Process alone(Arguments(spec));
  const nlohmann::json expected = alone.Await("step");
  alone.Rest();
  spec.checkpoint_dir = (folder_ / "gang").string();
  spec.run.train.micro_batch_size = 1;
  Process first(Arguments(Rank(spec, 0)));
  Process second(Arguments(Rank(spec, 1, first.Await("rendezvous_open")["address"])));
  const nlohmann::json step = first.Await("step");
  first.Rest();
  second.Rest();
  EXPECT_EQ(step["tokens"], expected["tokens"]);
  EXPECT_LT(step["tokens"].get<int64_t>(), 4 * 8) << "some positions are no targets";
  EXPECT_NEAR(step["loss"].get<double>(), expected["loss"].get<double>(), 1e-6);
  // After the first update the first moment is (1 - beta1) times the gradient.
  const auto ours = Arrays(folder_ / "gang/step-00000001.attempt-001/optimizer.safetensors");
  for (const auto& [name, values] : Arrays(folder_ / "alone/step-00000001.attempt-001/optimizer.safetensors")) {
    if (!name.starts_with("exp_avg.")) continue;
    float largest = 0, difference = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      largest = std::max(largest, std::abs(values[i]));
      difference = std::max(difference, std::abs(values[i] - ours.at(name)[i]));
    }
    EXPECT_LE(difference, 1e-5f * largest) << name;
  }
}

TEST_F(ProgramTest, ZeroStageOneChangesNoBitAndItsCheckpointIsLikeAnyOther) {
  for (const int stage : {0, 1}) {
    TrainerSpec spec = Spec(stage == 0 ? "whole" : "sharded");
    spec.run.train.zero_stage = stage;
    spec.run.train.param_dtype = "fp32_master";
    Process first(Arguments(Rank(spec, 0)));
    Process second(Arguments(Rank(spec, 1, first.Await("rendezvous_open")["address"])));
    EXPECT_TRUE(first.Rest().back().contains("finished"));
    EXPECT_TRUE(second.Rest().back().contains("finished"));
  }
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_EQ(DigestFile(folder_ / "sharded/step-00000012.attempt-001" / file).sha256,
              DigestFile(folder_ / "whole/step-00000012.attempt-001" / file).sha256);
  }
  // One process goes on from what two wrote, and two from what one wrote, with the losses of never having changed.
  fs::remove_all(folder_ / "sharded/step-00000012.attempt-001");
  TrainerSpec alone = Spec("sharded");
  alone.run.train.param_dtype = "fp32_master";
  alone.attempt = 2;
  Process resumed(Arguments(alone));
  EXPECT_EQ(resumed.Await("started")["first_step"], 9);
  const auto losses = Losses(resumed.Rest());
  fs::remove_all(folder_ / "sharded/step-00000012.attempt-002");
  alone.run.train.zero_stage = 1;
  alone.attempt = 3;
  Process first(Arguments(Rank(alone, 0)));
  Process second(Arguments(Rank(alone, 1, first.Await("rendezvous_open")["address"])));
  EXPECT_EQ(first.Await("started")["first_step"], 9);
  for (const auto& [step, loss] : Losses(first.Rest())) EXPECT_NEAR(loss, losses.at(step), 1e-4) << step;
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
