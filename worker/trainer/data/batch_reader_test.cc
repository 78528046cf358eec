#include "worker/trainer/data/batch_reader.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "worker/trainer/data/ignored_target.h"
#include "worker/trainer/testing/tiny_dataset.h"
#include "worker/trainer/train/file_digest.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr int64_t kIgnored = kIgnoredTarget;
constexpr int64_t kEos = 1;
const auto kNoLimit = [] { return false; };

class BatchReaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("batch_reader_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
    WriteTinyDataset(folder_ / "data");
    spec_ = TinySpec(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  /// A split of the documents, in one shard; each ends in kEos.
  TokenSplit Split(const std::vector<std::vector<uint32_t>>& documents, const std::vector<uint64_t>& num_given = {}) {
    TokenShardWriter writer(folder_ / "shard", 2, /*has_mask=*/!num_given.empty());
    for (size_t i = 0; i < documents.size(); ++i) {
      writer.AppendDocument(documents[i], num_given.empty() ? 0 : num_given[i]);
    }
    ManifestShard shard{.file = "shard",
                        .tokens = static_cast<int64_t>(writer.num_tokens()),
                        .documents = static_cast<int64_t>(documents.size())};
    writer.Finish();
    return TokenSplit(folder_, "train", {.shards = {shard}}, 100);
  }
  struct Row {
    std::vector<int64_t> inputs;
    std::vector<int64_t> targets;
    int64_t num_targets = 0;
  };
  static Row ReadRow(RowReader& rows, int64_t row, size_t seq_len) {
    Row read{.inputs = std::vector<int64_t>(seq_len, -1), .targets = std::vector<int64_t>(seq_len, -1)};
    read.num_targets = rows.Read(row, read.inputs, read.targets);
    return read;
  }
  std::string ErrorOf() {
    try {
      BatchReader(spec_, kNoLimit);
    } catch (const PermanentError& error) {
      return error.what();
    }
    return "no error";
  }

  /// Inputs and targets of `count` sequences of the global batch, from `first` on.
  static std::vector<int64_t> Batch(BatchReader& data, const TrainerSpec& spec, int64_t step, int64_t first,
                                    int64_t count) {
    std::vector<int64_t> both(static_cast<size_t>(2 * count * spec.run.data.seq_len));
    data.ReadTrain(step, first, count, both.data(), both.data() + both.size() / 2);
    return both;
  }

  fs::path folder_;
  TrainerSpec spec_;
};

TEST_F(BatchReaderTest, PackedRowsOverlapByOneTokenAndLeaveOutTheRest) {
  RowReader rows(Split({{10, 11, 12, kEos}, {20, 21, 22, 23, 24, 25, kEos}}), DataForm::kPacked, 4, 100, kEos);
  ASSERT_EQ(rows.NumRows(), 2);
  const Row first = ReadRow(rows, 0, 4), second = ReadRow(rows, 1, 4);
  EXPECT_THAT(first.inputs, ElementsAre(10, 11, 12, kEos));
  EXPECT_THAT(first.targets, ElementsAre(11, 12, kEos, 20));
  EXPECT_EQ(first.num_targets, 4);
  EXPECT_THAT(second.inputs, ElementsAre(20, 21, 22, 23));
  EXPECT_THAT(second.targets, ElementsAre(21, 22, 23, 24));
}

TEST_F(BatchReaderTest, APackedSplitShorterThanAWindowHasNoRow) {
  EXPECT_EQ(RowReader(Split({{10, 11, 12, kEos}}), DataForm::kPacked, 4, 100, kEos).NumRows(), 0);
  EXPECT_EQ(RowReader(Split({{10, 11, 12, kEos}}), DataForm::kPacked, 3, 100, kEos).NumRows(), 1);
  EXPECT_EQ(RowReader(Split({}), DataForm::kPacked, 3, 100, kEos).NumRows(), 0);
}

TEST_F(BatchReaderTest, ADocumentIsARowThatIsPaddedOrCutOffAndStillEnds) {
  RowReader rows(Split({{10, 11, kEos}, {20, 21, 22, 23, kEos}, {30, 31, 32, 33, 34, kEos}}), DataForm::kDocuments, 5,
                 100, kEos);
  ASSERT_EQ(rows.NumRows(), 3);
  const Row shorter = ReadRow(rows, 0, 5), equal = ReadRow(rows, 1, 5), longer = ReadRow(rows, 2, 5);
  EXPECT_THAT(shorter.inputs, ElementsAre(10, 11, kEos, kEos, kEos));
  EXPECT_THAT(shorter.targets, ElementsAre(11, kEos, kIgnored, kIgnored, kIgnored));
  EXPECT_EQ(shorter.num_targets, 2);
  EXPECT_THAT(equal.inputs, ElementsAre(20, 21, 22, 23, kEos));
  EXPECT_THAT(equal.targets, ElementsAre(21, 22, 23, kEos, kIgnored));
  EXPECT_EQ(equal.num_targets, 4);
  EXPECT_THAT(longer.inputs, ElementsAre(30, 31, 32, 33, kEos));
  EXPECT_THAT(longer.targets, ElementsAre(31, 32, 33, kEos, kIgnored));
  EXPECT_EQ(longer.num_targets, 4);
}

TEST_F(BatchReaderTest, WhatTheMaskExcludesIsAnInputButNoTargetInBothForms) {
  const std::vector<std::vector<uint32_t>> documents = {{10, 11, 12, 13, kEos}, {20, 21, 22, kEos}};
  RowReader documents_form(Split(documents, {3, 1}), DataForm::kDocuments, 6, 100, kEos);
  const Row row = ReadRow(documents_form, 0, 6);
  EXPECT_THAT(row.inputs, ElementsAre(10, 11, 12, 13, kEos, kEos));
  EXPECT_THAT(row.targets, ElementsAre(kIgnored, kIgnored, 13, kEos, kIgnored, kIgnored));
  EXPECT_EQ(row.num_targets, 2);
  RowReader packed(Split(documents, {3, 1}), DataForm::kPacked, 8, 100, kEos);
  EXPECT_THAT(ReadRow(packed, 0, 8).targets, ElementsAre(kIgnored, kIgnored, 13, kEos, kIgnored, 21, 22, kEos));
}

TEST_F(BatchReaderTest, APromptThatFillsTheRowLeavesNoTarget) {
  RowReader rows(Split({{10, 11, 12, 13, 14, kEos}}, {5}), DataForm::kDocuments, 3, 100, kEos);
  const Row row = ReadRow(rows, 0, 3);
  EXPECT_THAT(row.inputs, ElementsAre(10, 11, kEos));
  EXPECT_EQ(row.num_targets, 0);
}

TEST_F(BatchReaderTest, TheBatchIsTheSameForEveryWorldSizeAndMicroBatch) {
  spec_.run.train.batch_size = 12;
  for (const DataForm form : {DataForm::kPacked, DataForm::kDocuments}) {
    spec_.run.data.form = form;
    BatchReader data(spec_, kNoLimit);
    for (int64_t step = 1; step <= 40; ++step) {
      const std::vector<int64_t> whole = Batch(data, spec_, step, 0, 12);
      for (const int world_size : {2, 3, 4}) {
        for (const int64_t micro : {1, 12 / world_size}) {
          std::vector<int64_t> inputs, targets;
          for (int rank = 0; rank < world_size; ++rank) {
            const IndexRange part = RankPart(12, rank, world_size);
            for (int64_t first = part.begin; first < part.end; first += micro) {
              const std::vector<int64_t> both = Batch(data, spec_, step, first, micro);
              inputs.insert(inputs.end(), both.begin(), both.begin() + both.size() / 2);
              targets.insert(targets.end(), both.begin() + both.size() / 2, both.end());
            }
          }
          inputs.insert(inputs.end(), targets.begin(), targets.end());
          ASSERT_EQ(inputs, whole) << "step " << step << ", " << world_size << " ranks, micro batch " << micro;
        }
      }
    }
  }
}

TEST_F(BatchReaderTest, AResumedReaderGoesOnAsIfItHadReadFromTheBeginning) {
  BatchReader all(spec_, kNoLimit);
  std::vector<std::vector<int64_t>> batches;
  for (int64_t step = 1; step <= 150; ++step) batches.push_back(Batch(all, spec_, step, 0, 4));
  for (const int64_t resumed_at : {2, 62, 63, 149}) {  // 249 rows: a pass ends within step 63.
    BatchReader resumed(spec_, kNoLimit);
    for (int64_t step = resumed_at; step <= 150; ++step) {
      ASSERT_EQ(Batch(resumed, spec_, step, 0, 4), batches[step - 1]) << "step " << step;
    }
  }
}

TEST_F(BatchReaderTest, TheOrderDependsOnTheSeedAndOnNothingElseInTheSpec) {
  BatchReader data(spec_, kNoLimit);
  TrainerSpec other = spec_;
  other.run.norm.scheme = "deepnorm";
  other.run.model.num_layers = 7;
  other.run.train.lr = 0.5;
  BatchReader same(other, kNoLimit);
  other.run.seed = 2;
  BatchReader different(other, kNoLimit);
  EXPECT_EQ(Batch(same, spec_, 5, 0, 4), Batch(data, spec_, 5, 0, 4));
  EXPECT_NE(Batch(different, spec_, 5, 0, 4), Batch(data, spec_, 5, 0, 4));
}

TEST_F(BatchReaderTest, ValidationComesInTheOrderOfTheSplit) {
  BatchReader data(spec_, kNoLimit);
  std::vector<int64_t> inputs(24), targets(24);
  EXPECT_EQ(data.ReadValidation(1, 3, inputs.data(), targets.data()), 24);
  for (size_t i = 0; i + 1 < inputs.size(); ++i) EXPECT_EQ(targets[i], inputs[i + 1]);
}

TEST_F(BatchReaderTest, AFlippedByteAnywhereIsNamedBeforeTraining) {
  std::fstream shard(folder_ / "data/train-00001.bin", std::ios::binary | std::ios::in | std::ios::out);
  shard.seekp(900);
  shard.put('\x7f');
  shard.close();
  EXPECT_THAT(ErrorOf(), HasSubstr("train-00001.bin is corrupt: block 0 (bytes 64 to 1071)"));
  EXPECT_NO_THROW(BatchReader(spec_, [] { return true; })) << "with no time left it is found when it is read";
}

TEST_F(BatchReaderTest, AnotherTokenizerIsNamedBeforeTraining) {
  std::ofstream(folder_ / "data/tokenizer.model") << "other";
  EXPECT_THAT(ErrorOf(),
              HasSubstr("tokenizer.model (5 bytes) has SHA-256 d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d5"
                        "3a54f2f3f5b2fcffa, the manifest says e3b0c442"));
  fs::remove(folder_ / "data/tokenizer.model");
  EXPECT_THAT(ErrorOf(), HasSubstr("tokenizer.model"));
}

TEST_F(BatchReaderTest, ASplitWithoutARowIsNamed) {
  spec_.run.data.seq_len = 600;
  EXPECT_EQ(ErrorOf(),
            spec_.data_dir + ": the validation split has 500 tokens, one sequence of data.seq_len 600 needs 601");
  spec_.run.data.form = DataForm::kDocuments;
  EXPECT_EQ(ErrorOf(), "no error");
}

}  // namespace
}  // namespace normlab::trainer
