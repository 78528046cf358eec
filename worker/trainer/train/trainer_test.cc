#include "worker/trainer/train/trainer.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "worker/trainer/testing/tiny_dataset.h"
#include "worker/trainer/train/file_digest.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Keeps all events, and may look at each as it comes.
struct Recorder : EventSink {
  void Emit(const TrainerEvent& event) override {
    events.push_back(event);
    if (on_event) on_event(event);
  }
  template <typename Event>
  std::vector<Event> All() const {
    std::vector<Event> found;
    for (const TrainerEvent& event : events) {
      if (const auto* e = std::get_if<Event>(&event)) found.push_back(*e);
    }
    return found;
  }
  std::map<int64_t, double> Losses() const {
    std::map<int64_t, double> losses;
    for (const StepReport& report : All<StepReport>()) losses[report.step] = report.loss;
    return losses;
  }
  std::vector<TrainerEvent> events;
  std::function<void(const TrainerEvent&)> on_event;
};

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("trainer_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
    WriteTinyDataset(folder_ / "data");
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainerSpec Spec(const std::string& checkpoints = "checkpoints") const {
    TrainerSpec spec = TinySpec(folder_);
    spec.checkpoint_dir = (folder_ / checkpoints).string();
    return spec;
  }
  static Recorder Run(const TrainerSpec& spec) {
    Recorder recorder;
    const std::atomic<bool> never = false;
    Trainer(spec, recorder, never).Run();
    return recorder;
  }
  static Recorder RunAndStopAt(const TrainerSpec& spec, int64_t step) {
    Recorder recorder;
    std::atomic<bool> stop = false;
    recorder.on_event = [&](const TrainerEvent& event) {
      const auto* report = std::get_if<StepReport>(&event);
      if (report && report->step == step - 1) stop = true;
    };
    Trainer(spec, recorder, stop).Run();
    return recorder;
  }
  static std::string ErrorOf(const TrainerSpec& spec) {
    try {
      Run(spec);
    } catch (const PermanentError& error) {
      return error.what();
    } catch (const DatasetError& error) {
      return error.what();
    }
    return "no error";
  }
  std::string ModelSha256(const std::string& checkpoint) const {
    return DigestFile(folder_ / checkpoint / "model.safetensors").sha256;
  }
  void FlipBit(const std::string& file, int64_t offset) const {
    std::fstream stream(folder_ / file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekg(offset);
    const char byte = static_cast<char>(stream.get() ^ 1);
    stream.seekp(offset);
    stream.put(byte);
  }

  fs::path folder_;
};

TEST_F(TrainerTest, ReportsEachThingAtItsIntervalAndLearns) {
  const Recorder run = Run(Spec());
  ASSERT_EQ(run.All<Started>().size(), 1u);
  EXPECT_EQ(run.All<Started>()[0].first_step, 1);
  const auto steps = run.All<StepReport>();
  ASSERT_EQ(steps.size(), 12u);
  EXPECT_EQ(steps[0].lr, 0) << "warmup begins at 0";
  EXPECT_EQ(steps[11].tokens, 12 * 4 * 8);
  EXPECT_LT(steps[11].loss, steps[0].loss - 0.02);
  const auto layers = run.All<LayerReport>();
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[1].step, 12);
  ASSERT_EQ(layers[1].layers.size(), 2u);
  EXPECT_EQ(layers[1].layers[1].layer, 2);
  EXPECT_GT(layers[1].layers[1].grad_norm, 0);
  EXPECT_LT(layers[1].layers[1].grad_norm, steps[11].grad_norm);
  const auto evals = run.All<EvalReport>();
  ASSERT_EQ(evals.size(), 2u);
  EXPECT_EQ(evals[1].step, 12);
  EXPECT_EQ(evals[1].tokens, 80);
  EXPECT_DOUBLE_EQ(evals[1].perplexity, std::exp(evals[1].loss));
  std::vector<int64_t> saved;
  for (const CheckpointSaved& checkpoint : run.All<CheckpointSaved>()) saved.push_back(checkpoint.step);
  EXPECT_THAT(saved, ElementsAre(4, 8, 12));
  const auto* finished = std::get_if<Finished>(&run.events.back());
  ASSERT_TRUE(finished);
  EXPECT_EQ(finished->step, 12);
  EXPECT_FALSE(finished->diverged);
}

TEST_F(TrainerTest, StoppedAndResumedIsBitwiseEqualToNotStopping) {
  const Recorder whole = Run(Spec("whole"));
  const Recorder first = RunAndStopAt(Spec("parts"), 5);
  const auto* stopped = std::get_if<Stopped>(&first.events.back());
  ASSERT_TRUE(stopped);
  EXPECT_EQ(stopped->step, 5);
  TrainerSpec again = Spec("parts");
  again.attempt = 2;
  const Recorder second = Run(again);
  EXPECT_EQ(second.All<Started>()[0].first_step, 6);
  EXPECT_EQ(second.All<Started>()[0].resumed_from, "step-00000005.attempt-001");

  std::map<int64_t, double> losses = first.Losses();
  losses.merge(second.Losses());
  EXPECT_EQ(losses, whole.Losses());
  EXPECT_EQ(second.All<EvalReport>().back().loss, whole.All<EvalReport>().back().loss);
  EXPECT_EQ(ModelSha256("parts/step-00000012.attempt-002"), ModelSha256("whole/step-00000012.attempt-001"));
}

TEST_F(TrainerTest, ADamagedNewestCheckpointIsSaidAndTheOneBeforeIsUsed) {
  const Recorder whole = Run(Spec());
  FlipBit("checkpoints/step-00000012.attempt-001/optimizer.safetensors", 5000);
  TrainerSpec again = Spec();
  again.attempt = 2;
  const Recorder resumed = Run(again);
  const auto logs = resumed.All<LogLine>();
  ASSERT_EQ(logs.size(), 1u);
  EXPECT_EQ(logs[0].severity, Severity::kWarning);
  EXPECT_THAT(logs[0].text,
              AllOf(HasSubstr("checkpoint step-00000012.attempt-001 is damaged, the one before it is used: "),
                    HasSubstr("optimizer.safetensors was changed: its SHA-256 is ")));
  EXPECT_EQ(resumed.All<Started>()[0].first_step, 9);
  EXPECT_EQ(resumed.Losses().at(12), whole.Losses().at(12));
}

TEST_F(TrainerTest, ARunThatWasDoneIsEvaluatedAndFinishedAgainWithoutAnUpdate) {
  const Recorder whole = Run(Spec());
  TrainerSpec again = Spec();
  again.attempt = 2;
  const Recorder repeated = Run(again);
  EXPECT_TRUE(repeated.Losses().empty());
  EXPECT_TRUE(repeated.All<CheckpointSaved>().empty());
  EXPECT_EQ(repeated.All<EvalReport>().at(0).loss, whole.All<EvalReport>().back().loss);
  EXPECT_TRUE(std::holds_alternative<Finished>(repeated.events.back()));
}

TEST_F(TrainerTest, FromScratchUsesNoEarlierCheckpoint) {
  Run(Spec());
  TrainerSpec again = Spec();
  again.attempt = 2;
  again.resume_from_attempt = 2;
  EXPECT_EQ(Run(again).All<Started>()[0].first_step, 1);
}

TEST_F(TrainerTest, MicroBatchesChangeRoundingOnly) {
  const Recorder whole = Run(Spec("whole"));
  TrainerSpec spec = Spec("micro");
  spec.run.train.micro_batch_size = 1;
  const Recorder micro = Run(spec);
  for (const auto& [step, loss] : whole.Losses()) EXPECT_NEAR(micro.Losses().at(step), loss, 1e-5) << step;
  EXPECT_NEAR(micro.All<EvalReport>().back().loss, whole.All<EvalReport>().back().loss, 1e-5);
}

TEST_F(TrainerTest, ClippingLimitsTheUpdateAndSaysSo) {
  TrainerSpec spec = Spec();
  spec.run.train.grad_norm_max = 1e-3;
  for (const StepReport& report : Run(spec).All<StepReport>()) {
    EXPECT_TRUE(report.clipped);
    EXPECT_GT(report.grad_norm, 1e-3) << "the norm before clipping";
  }
}

TEST_F(TrainerTest, ALossThatIsNotFiniteEndsTheRunAsDivergedAndSavesNoBadWeights) {
  TrainerSpec spec = Spec();
  spec.run.train.lr = 1e38;
  spec.run.report.checkpoint_every_steps = 1;
  const Recorder run = Run(spec);
  const auto* finished = std::get_if<Finished>(&run.events.back());
  ASSERT_TRUE(finished);
  EXPECT_TRUE(finished->diverged);
  const StepReport last = run.All<StepReport>().back();
  EXPECT_EQ(last.step, finished->step);
  EXPECT_FALSE(std::isfinite(last.loss) && std::isfinite(last.grad_norm));
  EXPECT_LT(run.All<CheckpointSaved>().back().step, finished->step);
}

TEST_F(TrainerTest, AnotherSpecDoesNotResume) {
  Run(Spec());
  TrainerSpec other = Spec();
  other.attempt = 2;
  other.run.train.lr = 0.02;
  EXPECT_EQ(ErrorOf(other),
            "checkpoint step-00000012.attempt-001 (step 12) was made with train.lr = 0.01, the spec asks for 0.02: "
            "requeue with --from-scratch, or put the old value back");
}

TEST_F(TrainerTest, BadDataIsNamed) {
  const std::string data = (folder_ / "data").string();
  FlipBit("data/train-00000.bin", 64 + 100);
  EXPECT_THAT(ErrorOf(Spec()), HasSubstr(data + "/train-00000.bin is corrupt: block 0 (bytes 64 to 3071) has CRC-32 "));
  fs::resize_file(folder_ / "data/train-00001.bin", 1000);
  EXPECT_EQ(ErrorOf(Spec()),
            data +
                "/train-00001.bin is truncated: it has 1000 bytes, 500 tokens in 1 documents need 1076; prepare "
                "the dataset again");
  fs::remove(folder_ / "data/manifest.json");
  EXPECT_EQ(ErrorOf(Spec()), data +
                                 "/manifest.json cannot be opened (No such file or directory): make the dataset "
                                 "with `normlab data prepare`");
}

TEST_F(TrainerTest, ATokenOutsideOfTheVocabularyIsNamed) {
  Manifest manifest = ReadManifest(folder_ / "data");
  manifest.vocab_size = 20;
  WriteManifest(folder_ / "data", manifest);
  EXPECT_THAT(ErrorOf(Spec()), HasSubstr("train-00000.bin has token 31, the manifest's vocab_size is 20: it was made "
                                         "with another tokenizer"));
}

TEST_F(TrainerTest, ASplitShorterThanASequenceIsRefused) {
  TrainerSpec spec = Spec();
  spec.run.data.seq_len = 600;
  EXPECT_EQ(ErrorOf(spec), (folder_ / "data").string() +
                               ": the validation split has 500 tokens, one sequence of "
                               "data.seq_len 600 needs 601");
}

}  // namespace
}  // namespace normlab::trainer
