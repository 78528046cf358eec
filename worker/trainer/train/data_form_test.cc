// Whole runs on documents and on prompts with responses.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "worker/trainer/testing/tiny_dataset.h"
#include "worker/trainer/train/file_digest.h"
#include "worker/trainer/train/trainer.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;

struct Recorder : EventSink {
  void Emit(const TrainerEvent& event) override { events.push_back(event); }
  template <typename Event>
  std::vector<Event> All() const {
    std::vector<Event> found;
    for (const TrainerEvent& event : events) {
      if (const auto* one = std::get_if<Event>(&event)) found.push_back(*one);
    }
    return found;
  }
  std::vector<TrainerEvent> events;
};

class DataFormTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("data_form_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
    WriteTinyDataset(folder_ / "data");
  }
  void TearDown() override { fs::remove_all(folder_); }

  /// Documents of 2 to 21 tokens that count upwards from different numbers; with `num_given`, so many at the start are
  /// given.
  void WriteDocuments(uint64_t num_given) {
    Manifest manifest = ReadManifest(folder_ / "data");
    const auto write = [&](const std::string& file, uint32_t count) {
      TokenShardWriter writer(folder_ / "data" / file, 2, /*has_mask=*/num_given > 0);
      for (uint32_t document = 0; document < count; ++document) {
        std::vector<uint32_t> tokens;
        for (uint32_t i = 0; i < 1 + document * 7 % 20; ++i)
          tokens.push_back(2 + (document + i) % (kTinyVocabSize - 2));
        tokens.push_back(static_cast<uint32_t>(manifest.eos_id));
        writer.AppendDocument(tokens, num_given);
      }
      ManifestShard shard{.file = file,
                          .tokens = static_cast<int64_t>(writer.num_tokens()),
                          .documents = static_cast<int64_t>(count),
                          .sha256 = file};
      writer.Finish();
      return ManifestSplit{.tokens = shard.tokens, .documents = shard.documents, .shards = {shard}};
    };
    manifest.train = write("train-documents", 50);
    manifest.validation = write("validation-documents", 10);
    WriteManifest(folder_ / "data", manifest);
  }

  TrainerSpec Spec(const std::string& checkpoints) const {
    TrainerSpec spec = TinySpec(folder_);
    spec.run.data.form = DataForm::kDocuments;
    spec.run.train.steps = 40;
    spec.checkpoint_dir = (folder_ / checkpoints).string();
    return spec;
  }
  static Recorder Run(const TrainerSpec& spec) {
    Recorder recorder;
    const std::atomic<bool> never = false;
    Trainer(spec, recorder, never).Run();
    return recorder;
  }

  fs::path folder_;
};

TEST_F(DataFormTest, LearnsFromDocumentsAndEvaluatesOverTheirTargetsOnly) {
  WriteDocuments(0);
  const Recorder run = Run(Spec("checkpoints"));
  const auto evals = run.All<EvalReport>();
  // Lengths 2, 9, 16, 3, 10, 17, 4, 11, 18, 5 (with the end-of-text token); rows of 8 have at most 7 targets.
  EXPECT_EQ(evals.back().tokens, 1 + 7 + 7 + 2 + 7 + 7 + 3 + 7 + 7 + 4);
  EXPECT_LT(evals.back().loss, evals.front().loss * 0.8);
}

TEST_F(DataFormTest, EvaluatesResponsesOnly) {
  WriteDocuments(2);
  const Recorder run = Run(Spec("checkpoints"));
  EXPECT_EQ(run.All<EvalReport>().back().tokens, 0 + 6 + 6 + 1 + 6 + 6 + 2 + 6 + 6 + 3);
}

TEST_F(DataFormTest, TheTokenMeanDoesNotDependOnTheMicroBatch) {
  WriteDocuments(0);
  TrainerSpec whole = Spec("whole"), parts = Spec("parts");
  whole.run.train.loss_mean = parts.run.train.loss_mean = "token";
  parts.run.train.micro_batch_size = 1;
  const auto expected = Run(whole).All<StepReport>(), actual = Run(parts).All<StepReport>();
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i].loss, expected[i].loss, 1e-4) << "step " << i + 1;
}

}  // namespace
}  // namespace normlab::trainer
