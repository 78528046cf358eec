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
    for (uint32_t i = 0; i < count; ++i) writer.Append(std::vector<uint32_t>{(first + i) % 60000});
    writer.Finish();
    return {.file = file, .tokens = count};
  }
  void FlipBit(const std::string& file, int64_t offset) {
    std::fstream stream(folder_ / file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekg(offset);
    const char byte = static_cast<char>(stream.get() ^ 1);
    stream.seekp(offset);
    stream.put(byte);
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

TEST_F(DatasetTest, WindowsOverlapByOneTokenAndCrossShards) {
  const ManifestSplit split{.tokens = 11, .shards = {Write("a", 0, 6), Write("b", 6, 0), Write("c", 6, 5, 4)}};
  TokenSplit tokens(folder_, "train", split);
  EXPECT_EQ(tokens.NumWindows(4), 2);
  std::vector<int64_t> window(5);
  tokens.ReadWindow(0, window);
  EXPECT_THAT(window, ElementsAre(0, 1, 2, 3, 4));
  tokens.ReadWindow(1, window);
  EXPECT_THAT(window, ElementsAre(4, 5, 6, 7, 8));
}

TEST_F(DatasetTest, AFlippedByteIsFoundWhenItsBlockIsFirstReadAndNotBefore) {
  const uint32_t num_tokens = 3 * kShardBlockTokens;
  const ManifestSplit split{.tokens = num_tokens, .shards = {Write("train-00000.bin", 0, num_tokens)}};
  FlipBit("train-00000.bin", kShardHeaderBytes + kShardBlockTokens * 2 + 100);
  TokenSplit tokens(folder_, "train", split);
  std::vector<int64_t> window(101);
  tokens.ReadWindow(0, window);
  const auto read_second_block = [&] { tokens.ReadWindow(kShardBlockTokens / 100 + 1, window); };
  EXPECT_THAT(ErrorOf(read_second_block), HasSubstr("train-00000.bin is corrupt: block 1 (bytes 65600 to 131135) has"));
  EXPECT_THAT(ErrorOf(read_second_block), HasSubstr("is corrupt")) << "it must not pass the second time";
}

TEST_F(DatasetTest, AFlippedChecksumIsFoundToo) {
  const ManifestSplit split{.tokens = 100, .shards = {Write("t", 0, 100)}};
  FlipBit("t", kShardHeaderBytes + 200);
  TokenSplit tokens(folder_, "train", split);
  std::vector<int64_t> window(11);
  EXPECT_THAT(ErrorOf([&] { tokens.ReadWindow(0, window); }), HasSubstr("block 0 (bytes 64 to 263)"));
}

TEST_F(DatasetTest, ATruncatedOrMissingOrWrongShardIsFoundAtOpen) {
  const ManifestSplit split{.tokens = 100, .shards = {Write("t", 0, 100)}};
  std::filesystem::resize_file(folder_ / "t", 200);
  EXPECT_THAT(ErrorOf([&] { TokenSplit(folder_, "train", split); }),
              EndsWith("t is truncated: it has 200 bytes, 100 tokens need 268; prepare the dataset again"));
  std::filesystem::resize_file(folder_ / "t", 0);
  EXPECT_THAT(ErrorOf([&] { TokenSplit(folder_, "train", split); }), EndsWith("t is truncated: it has 0 bytes"));
  std::filesystem::remove(folder_ / "t");
  EXPECT_THAT(ErrorOf([&] { TokenSplit(folder_, "train", split); }),
              EndsWith("t cannot be opened: No such file or directory"));
  Write("t", 0, 99);
  EXPECT_THAT(ErrorOf([&] { TokenSplit(folder_, "train", split); }),
              EndsWith("t has 99 tokens, the manifest says 100"));
}

TEST_F(DatasetTest, ASplitShorterThanAWindowHasNone) {
  TokenSplit tokens(folder_, "validation", {});
  EXPECT_EQ(tokens.NumWindows(4), 0);
  TokenSplit four(folder_, "validation", {.tokens = 4, .shards = {Write("t", 0, 4)}});
  EXPECT_EQ(four.NumWindows(4), 0);
  EXPECT_EQ(four.NumWindows(3), 1);
}

}  // namespace
}  // namespace normlab::trainer
