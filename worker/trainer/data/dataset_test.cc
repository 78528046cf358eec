#include "worker/trainer/data/dataset.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

namespace normlab::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

class DatasetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(::testing::TempDir()) / fmt::format("dataset_{}_{}", info->name(), getpid());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  ManifestShard Write(const std::string& file, uint32_t first, uint32_t count, uint32_t token_bytes = 2) {
    TokenShardWriter writer(folder_ / file, token_bytes);
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < count; ++i) tokens.push_back((first + i) % 60000);
    writer.AppendDocument(tokens);
    writer.Finish();
    return {.file = file, .tokens = count, .documents = 1};
  }
  void FlipBit(const std::string& file, int64_t offset) {
    std::fstream stream(folder_ / file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekg(offset);
    const char byte = static_cast<char>(stream.get() ^ 1);
    stream.seekp(offset);
    stream.put(byte);
  }
  static std::vector<int64_t> Read(TokenSplit& split, int64_t first, size_t count) {
    std::vector<int64_t> tokens(count);
    std::vector<uint8_t> is_target(count);
    split.Read(first, tokens, is_target);
    EXPECT_THAT(is_target, ::testing::Each(1));
    return tokens;
  }
  template <typename Action>
  static std::string ErrorOf(Action action) {
    try {
      action();
    } catch (const DatasetError& error) {
      return error.what();
    }
    return "no error";
  }

  std::filesystem::path folder_;
};

TEST_F(DatasetTest, ReadsAcrossShardsAlsoEmptyOnes) {
  { TokenShardWriter(folder_ / "empty", 2).Finish(); }
  const ManifestSplit split{
      .tokens = 11, .documents = 2, .shards = {Write("a", 0, 6), {.file = "empty"}, Write("c", 6, 5, 4)}};
  TokenSplit tokens(folder_, "train", split, 60000);
  EXPECT_EQ(tokens.num_tokens(), 11);
  EXPECT_EQ(tokens.num_documents(), 2);
  EXPECT_THAT(Read(tokens, 0, 5), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(Read(tokens, 4, 7), ElementsAre(4, 5, 6, 7, 8, 9, 10));
  EXPECT_EQ(tokens.Document(0).end, 6);
  EXPECT_EQ(tokens.Document(1).begin, 6);
  EXPECT_EQ(tokens.Document(1).end, 11);
}

TEST_F(DatasetTest, TheMaskSaysWhichTokensAreTargets) {
  TokenShardWriter writer(folder_ / "m", 2, /*has_mask=*/true);
  std::vector<uint8_t> expected;
  for (uint32_t document = 0; document < 40; ++document) {
    writer.AppendDocument(std::vector<uint32_t>(document + 1, document), document / 2);
    for (uint32_t i = 0; i <= document; ++i) expected.push_back(i >= document / 2);
  }
  writer.Finish();
  const auto count = static_cast<int64_t>(expected.size());
  TokenSplit tokens(folder_, "train", {.shards = {{.file = "m", .tokens = count, .documents = 40}}}, 100);
  for (int64_t first : {0, 1, 7, 8, 13}) {
    std::vector<int64_t> unused(expected.size() - first);
    std::vector<uint8_t> is_target(unused.size());
    tokens.Read(first, unused, is_target);
    EXPECT_THAT(is_target, ::testing::ElementsAreArray(expected.begin() + first, expected.end())) << "from " << first;
  }
}

TEST_F(DatasetTest, AFlippedByteIsFoundWhenItsBlockIsFirstReadAndNotBefore) {
  const uint32_t block_tokens = kShardBlockBytes / 2;
  const ManifestSplit split{.shards = {Write("train-00000.bin", 0, 3 * block_tokens)}};
  FlipBit("train-00000.bin", kShardHeaderBytes + kShardBlockBytes + 100);
  TokenSplit tokens(folder_, "train", split, 60000);
  EXPECT_THAT(Read(tokens, 0, 2), ElementsAre(0, 1));
  const auto read_second_block = [&] { Read(tokens, block_tokens - 1, 2); };
  EXPECT_THAT(ErrorOf(read_second_block), HasSubstr("train-00000.bin is corrupt: block 1 (bytes 65600 to 131135) has"));
  EXPECT_THAT(ErrorOf(read_second_block), HasSubstr("is corrupt")) << "it must not pass the second time";
}

TEST_F(DatasetTest, AnyFlippedByteOfTheBodyOrTheChecksumsIsFoundByVerify) {
  TokenShardWriter writer(folder_ / "good", 2, /*has_mask=*/true);
  for (uint32_t document = 0; document < 5; ++document) writer.AppendDocument(std::vector<uint32_t>(9, document), 3);
  writer.Finish();
  const ManifestSplit split{.shards = {{.file = "t", .tokens = 45, .documents = 5}}};
  const auto file_bytes = static_cast<int64_t>(std::filesystem::file_size(folder_ / "good"));
  for (int64_t offset = kShardHeaderBytes; offset < file_bytes; ++offset) {
    std::filesystem::copy_file(folder_ / "good", folder_ / "t", std::filesystem::copy_options::overwrite_existing);
    FlipBit("t", offset);
    TokenSplit tokens(folder_, "train", split, 60000);
    EXPECT_THAT(ErrorOf([&] { tokens.Verify([] { return false; }); }), HasSubstr("t is corrupt: block 0")) << offset;
  }
}

TEST_F(DatasetTest, VerifyStopsWhenTheTimeIsOver) {
  const ManifestSplit split{.shards = {Write("t", 0, 5 * kShardBlockBytes / 2)}};
  FlipBit("t", kShardHeaderBytes + 3 * kShardBlockBytes);
  TokenSplit tokens(folder_, "train", split, 60000);
  int asked = 0;
  EXPECT_EQ(ErrorOf([&] { tokens.Verify([&] { return ++asked > 3; }); }), "no error");
  EXPECT_EQ(asked, 4);
}

TEST_F(DatasetTest, ATokenThatTheVocabularyDoesNotHaveIsFoundAtOpen) {
  const ManifestSplit split{.shards = {Write("t", 0, 100)}};
  EXPECT_THAT(ErrorOf([&] { TokenSplit(folder_, "train", split, 99); }),
              EndsWith("t has token 99, the manifest's vocab_size is 99: it was made with another tokenizer"));
  EXPECT_EQ(ErrorOf([&] { TokenSplit(folder_, "train", split, 100); }), "no error");
}

TEST_F(DatasetTest, ATruncatedOrMissingOrWrongShardIsFoundAtOpen) {
  const ManifestSplit split{.shards = {Write("t", 0, 100)}};
  const auto open = [&] { TokenSplit(folder_, "train", split, 60000); };
  std::filesystem::resize_file(folder_ / "t", 200);
  EXPECT_THAT(ErrorOf(open), EndsWith("t is truncated: it has 200 bytes, 100 tokens in 1 documents need 276; prepare "
                                      "the dataset again"));
  std::filesystem::resize_file(folder_ / "t", 0);
  EXPECT_THAT(ErrorOf(open), EndsWith("t is truncated: it has 0 bytes"));
  std::filesystem::remove(folder_ / "t");
  EXPECT_THAT(ErrorOf(open), EndsWith("t cannot be opened: No such file or directory"));
  Write("t", 0, 99);
  EXPECT_THAT(ErrorOf(open), EndsWith("t has 99 tokens in 1 documents, the manifest says 100 in 1"));
}

}  // namespace
}  // namespace normlab::trainer
