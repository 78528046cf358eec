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
#include "worker/trainer/train/flat_kernels.h"
#include "worker/trainer/train/safetensors.h"

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
    EXPECT_EQ(report.clip_fraction, 1);
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

TEST_F(TrainerTest, ALossAboveTheBoundForSoManyUpdatesIsDivergenceAndSurvivesAResume) {
  TrainerSpec spec = Spec();
  spec.run.train.divergence_loss = 0.5;  // Its loss begins at ln 32 = 3.5.
  spec.run.train.divergence_steps = 7;
  const Recorder first = RunAndStopAt(spec, 3);
  EXPECT_TRUE(std::holds_alternative<Stopped>(first.events.back()));
  spec.attempt = 2;
  const Recorder second = Run(spec);
  const auto* finished = std::get_if<Finished>(&second.events.back());
  ASSERT_TRUE(finished);
  EXPECT_TRUE(finished->diverged);
  EXPECT_EQ(finished->step, 7);
  EXPECT_THAT(second.All<LogLine>().back().text,
              AllOf(HasSubstr("update 7 diverged: its loss "),
                    HasSubstr("the last of 7 in a row above train.divergence_loss 0.5")));
}

TEST_F(TrainerTest, RoundedWeightsResumeBitForBit) {
  for (const std::string param_dtype : {"bf16_pure", "fp32_master"}) {
    TrainerSpec spec = Spec("whole-" + param_dtype);
    spec.run.train.param_dtype = param_dtype;
    const Recorder whole = Run(spec);
    spec.checkpoint_dir = (folder_ / ("parts-" + param_dtype)).string();
    RunAndStopAt(spec, 5);
    spec.attempt = 2;
    const Recorder rest = Run(spec);
    EXPECT_EQ(rest.Losses().at(12), whole.Losses().at(12)) << param_dtype;
    EXPECT_EQ(ModelSha256("parts-" + param_dtype + "/step-00000012.attempt-002"),
              ModelSha256("whole-" + param_dtype + "/step-00000012.attempt-001"));
    std::vector<float> gains(16);
    SafetensorsReader(folder_ / ("parts-" + param_dtype) / "step-00000012.attempt-002/model.safetensors")
        .Read("model.norm.weight", {16}, gains);
    std::vector<float> rounded = gains;
    RoundToBfloat16(rounded.data(), 16);
    EXPECT_EQ(gains, rounded);
  }
}

TEST_F(TrainerTest, ACheckpointThatCannotBeWrittenIsAWarningAndTheRunGoesOn) {
  TrainerSpec spec = Spec();
  const fs::path folder = spec.checkpoint_dir, aside = folder.string() + ".aside";
  Recorder recorder;
  recorder.on_event = [&](const TrainerEvent& event) {
    const auto* saved = std::get_if<CheckpointSaved>(&event);
    if (saved && saved->step == 4) {
      fs::rename(folder, aside);
      std::ofstream(folder) << "in the way";
    }
    const auto* log = std::get_if<LogLine>(&event);
    if (log && log->severity == Severity::kWarning) {
      fs::remove(folder);
      fs::rename(aside, folder);
    }
  };
  const std::atomic<bool> never = false;
  Trainer(spec, recorder, never).Run();
  const auto logs = recorder.All<LogLine>();
  ASSERT_EQ(logs.size(), 1u);
  EXPECT_THAT(logs[0].text, AllOf(HasSubstr("checkpoint step-00000008.attempt-001 ("), HasSubstr("was not saved"),
                                  HasSubstr("training goes on, the next one is tried after at most 4 updates")));
  EXPECT_EQ(recorder.All<CheckpointSaved>().back().step, 12);
  EXPECT_TRUE(std::holds_alternative<Finished>(recorder.events.back()));
}

TEST_F(TrainerTest, TheLastCheckpointMustBeWritten) {
  TrainerSpec spec = Spec();
  Recorder recorder;
  recorder.on_event = [&](const TrainerEvent& event) {
    const auto* report = std::get_if<StepReport>(&event);
    if (!report || report->step != 12) return;
    fs::rename(spec.checkpoint_dir, spec.checkpoint_dir + ".aside");
    std::ofstream(spec.checkpoint_dir) << "in the way";
  };
  const std::atomic<bool> never = false;
  Trainer trainer(spec, recorder, never);
  EXPECT_THAT([&] { trainer.Run(); },
              ::testing::ThrowsMessage<std::runtime_error>(HasSubstr("checkpoint step-00000012.attempt-001 (")));
}

TEST_F(TrainerTest, StartsFromTheWeightsOfAnotherRun) {
  const Recorder source = Run(Spec("source"));
  TrainerSpec spec = Spec("tuned");
  spec.run.train.init_from = "source";
  spec.init_dir = (folder_ / "source").string();
  spec.run.train.steps = 1;  // The first update of a warmup has rate 0.
  const Recorder tuned = Run(spec);
  EXPECT_EQ(tuned.All<EvalReport>().back().loss, source.All<EvalReport>().back().loss);
  EXPECT_EQ(tuned.All<LogLine>().at(0).text, "weights from checkpoint step-00000012.attempt-001 of source");
  spec.run.model.num_layers = 1;
  spec.checkpoint_dir = (folder_ / "other").string();
  EXPECT_THAT(ErrorOf(spec), HasSubstr("arrays that the spec's model has no place for"));
}

TEST_F(TrainerTest, TheLossMeanIsOverTargetsOrOverMicroBatches) {
  WriteTinyPromptDataset(folder_ / "data");
  std::map<std::string, double> losses;
  for (const std::string mean : {"token", "micro_batch"}) {
    for (const int64_t micro : {1, 4}) {
      TrainerSpec spec = Spec(fmt::format("{}-{}", mean, micro));
      spec.run.train.loss_mean = mean;
      spec.run.train.micro_batch_size = micro;
      spec.run.train.steps = 3;
      losses[fmt::format("{}-{}", mean, micro)] = Run(spec).Losses().at(3);
    }
  }
  EXPECT_NEAR(losses["token-1"], losses["token-4"], 1e-6);
  EXPECT_EQ(losses["micro_batch-4"], losses["token-4"]) << "with one micro batch there is nothing to weight";
  EXPECT_GT(std::abs(losses["micro_batch-1"] - losses["micro_batch-4"]), 1e-4);
}

TEST_F(TrainerTest, ReportsWhereTheTimeGoesAndWhatTheWeightsAre) {
  TrainerSpec spec = Spec();
  spec.run.train.grad_norm_max = 1e9;
  const Recorder run = Run(spec);
  for (const StepReport& report : run.All<StepReport>()) {
    EXPECT_NEAR(report.data_seconds + report.forward_seconds + report.backward_seconds + report.communication_seconds +
                    report.optimizer_seconds,
                report.step_seconds, 1e-9);
    EXPECT_GT(report.memory_bytes, 1 << 20);
    EXPECT_EQ(report.clip_fraction, 0);
    const Started started = run.All<Started>()[0];
    EXPECT_GT(started.peak_flops, 0);
    EXPECT_DOUBLE_EQ(report.flops_utilization, report.tokens_per_second * started.flops_per_token / started.peak_flops);
  }
  const LayerStats first = run.All<LayerReport>()[0].layers[0];
  EXPECT_GT(first.weight_norm, 0);
  EXPECT_NEAR(*first.norm_gain_mean, 1, 0.1);
  EXPECT_LE(*first.norm_gain_min, *first.norm_gain_mean);
  EXPECT_GE(*first.norm_gain_max, *first.norm_gain_mean);
  EXPECT_GT(first.output_max_abs * first.output_max_abs, first.output_mean_square);
  EXPECT_GT(first.output_variance_median, 0);
  EXPECT_GT(first.stream_grad_ratio, 0);
  EXPECT_EQ(first.attention_scale, std::nullopt) << "pre_ln learns none";
  const EvalReport eval = run.All<EvalReport>().back();
  EXPECT_EQ(eval.batches, 3) << "10 sequences in micro batches of 4";
  EXPECT_DOUBLE_EQ(eval.perplexity_official, std::exp(eval.loss * 3 / 4));
  EXPECT_GT(run.All<CheckpointSaved>()[0].stall_seconds, 0);
}

TEST_F(TrainerTest, ReportsTheScalesThatASchemeLearns) {
  const auto first_layer = [&](const NormSpec& norm) {
    TrainerSpec spec = Spec();
    spec.checkpoint_dir += "-" + norm.scheme;
    spec.run.norm = norm;
    return Run(spec).All<LayerReport>()[0].layers[0];
  };
  NormSpec norm = Spec().run.norm;
  norm.scheme = "dyt";
  EXPECT_NEAR(first_layer(norm).dyt_alpha.value(), 0.6, 0.25) << "0.8 in attention, 0.2 in the FFN";
  norm.scheme = "ngpt";
  EXPECT_NEAR(first_layer(norm).attention_scale.value(), 0.05, 0.02);
  norm.scheme = "layer_scale";
  EXPECT_TRUE(first_layer(norm).ffn_scale.has_value());
  norm.scheme = "pre_ln";
  norm.gpas = true;
  EXPECT_NEAR(first_layer(norm).gate.value(), 0, 0.05);
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
