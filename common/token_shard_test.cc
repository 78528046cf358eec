#include "common/token_shard.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

namespace normlab {
namespace {

using ::testing::HasSubstr;

class TokenShardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(::testing::TempDir()) / fmt::format("token_shard_{}_{}", info->name(), getpid());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static std::string Read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void WriteManifestText(const std::string& text) { std::ofstream(folder_ / kManifestFile) << text; }
  std::string ManifestError() const {
    try {
      ReadManifest(folder_);
    } catch (const DatasetError& error) {
      return error.what();
    }
    return "no error";
  }
  static std::string HeaderError(const std::string& bytes) {
    try {
      DecodeShardHeader(bytes.data(), bytes.size(), "s.bin");
    } catch (const DatasetError& error) {
      return error.what();
    }
    return "no error";
  }
  std::string WrittenShard(uint64_t num_tokens, uint32_t token_bytes) {
    std::vector<uint32_t> tokens(num_tokens);
    std::iota(tokens.begin(), tokens.end(), 0u);
    TokenShardWriter writer(folder_ / "s.bin", token_bytes);
    writer.AppendDocument(tokens);
    writer.Finish();
    return Read(folder_ / "s.bin");
  }

  std::filesystem::path folder_;
};

TEST_F(TokenShardTest, HoldsHeaderTokensEndsAndOneChecksumPerBlock) {
  const std::string bytes = WrittenShard(40000, 2);
  const ShardHeader header = DecodeShardHeader(bytes.data(), bytes.size(), "s.bin");
  EXPECT_EQ(header.num_tokens, 40000u);
  EXPECT_EQ(header.num_documents, 1u);
  EXPECT_EQ(header.token_bytes, 2u);
  EXPECT_EQ(header.token_max, 39999u);
  EXPECT_EQ(header.NumBlocks(), 2u);
  uint16_t last;
  std::memcpy(&last, bytes.data() + kShardHeaderBytes + 39999 * 2, 2);
  EXPECT_EQ(last, 39999);
  uint64_t end;
  std::memcpy(&end, bytes.data() + header.EndsOffset(), 8);
  EXPECT_EQ(end, 40000u);
  uint32_t second_checksum;
  std::memcpy(&second_checksum, bytes.data() + header.ChecksumsOffset() + 4, 4);
  const uint64_t second_block = kShardHeaderBytes + kShardBlockBytes;
  EXPECT_EQ(second_checksum, Crc32(bytes.data() + second_block, header.ChecksumsOffset() - second_block));
}

TEST_F(TokenShardTest, AMaskHasABitPerTokenThatIsZeroForWhatIsGiven) {
  TokenShardWriter writer(folder_ / "s.bin", 4, /*has_mask=*/true);
  writer.AppendDocument(std::vector<uint32_t>{70000, 1, 2}, 2);
  writer.AppendDocument(std::vector<uint32_t>{3, 4, 5, 6, 7, 8, 9}, 1);
  writer.Finish();
  const std::string bytes = Read(folder_ / "s.bin");
  const ShardHeader header = DecodeShardHeader(bytes.data(), bytes.size(), "s.bin");
  EXPECT_EQ(header.num_documents, 2u);
  EXPECT_EQ(header.token_max, 70000u);
  ASSERT_TRUE(header.has_mask);
  EXPECT_EQ(header.ChecksumsOffset() - header.MaskOffset(), 2u);
  EXPECT_EQ(static_cast<uint8_t>(bytes[header.MaskOffset()]), 0b11110100);
  EXPECT_EQ(static_cast<uint8_t>(bytes[header.MaskOffset() + 1]), 0b11);
}

TEST_F(TokenShardTest, IsNotThereBeforeFinishAndLeavesNothingWithoutIt) {
  {
    TokenShardWriter writer(folder_ / "s.bin", 4);
    writer.AppendDocument(std::vector<uint32_t>(10, 1));
    EXPECT_FALSE(std::filesystem::exists(folder_ / "s.bin"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(TokenShardTest, RefusesATokenThatDoesNotFit) {
  TokenShardWriter writer(folder_ / "s.bin", 2);
  EXPECT_THROW(writer.AppendDocument(std::vector<uint32_t>{65536}), DatasetError);
}

TEST_F(TokenShardTest, ATruncatedFileIsFoundByItsSize) {
  const std::string bytes = WrittenShard(100, 2);
  EXPECT_EQ(HeaderError(bytes), "no error");
  EXPECT_EQ(HeaderError(bytes.substr(0, bytes.size() - 1)),
            "s.bin is truncated: it has 275 bytes, 100 tokens in 1 documents need 276; prepare the dataset again");
  EXPECT_EQ(HeaderError(bytes.substr(0, 10)), "s.bin is truncated: it has 10 bytes, a shard's header alone has 64");
  EXPECT_THAT(HeaderError(bytes + "x"), HasSubstr("s.bin is too long: it has 277 bytes"));
}

TEST_F(TokenShardTest, AnotherVersionIsNamed) {
  std::string bytes = WrittenShard(100, 2);
  bytes[8] = 1;
  const uint32_t crc = Crc32(bytes.data(), 60);
  std::memcpy(bytes.data() + 60, &crc, 4);
  EXPECT_EQ(HeaderError(bytes), "s.bin has shard version 1, this program reads 2: prepare the dataset again");
}

TEST_F(TokenShardTest, AnyFlippedBitOfTheHeaderIsFound) {
  const std::string good = WrittenShard(100, 2);
  for (size_t byte = 0; byte < kShardHeaderBytes; ++byte) {
    std::string bad = good;
    bad[byte] ^= 0x10;
    EXPECT_NE(HeaderError(bad), "no error") << "byte " << byte;
  }
}

TEST_F(TokenShardTest, ManifestComesBackAsItWasWritten) {
  Manifest manifest{.vocab_size = 100, .eos_id = 2, .tokenizer_file = "t.model", .tokenizer_sha256 = "ab"};
  manifest.source = {{"recipe", 7}};
  manifest.train = {.tokens = 7,
                    .documents = 2,
                    .text_bytes = 30,
                    .empty = 4,
                    .invalid = 5,
                    .shards = {{"train-00000.bin", 3, 1, "cd"}, {"train-00001.bin", 4, 1, "ef"}}};
  manifest.validation = {.tokens = 1, .documents = 1, .shards = {{"validation-00000.bin", 1, 1, "01"}}};
  WriteManifest(folder_, manifest);
  const Manifest read = ReadManifest(folder_);
  EXPECT_EQ(read.vocab_size, 100);
  EXPECT_EQ(read.eos_id, 2);
  EXPECT_EQ(read.tokenizer_file, "t.model");
  EXPECT_EQ(read.source, manifest.source);
  EXPECT_EQ(read.train.shards.at(1).file, "train-00001.bin");
  EXPECT_EQ(read.train.shards.at(1).sha256, "ef");
  EXPECT_EQ(read.train.tokens, 7);
  EXPECT_EQ(read.train.text_bytes, 30);
  EXPECT_EQ(read.train.empty, 4);
  EXPECT_EQ(read.train.invalid, 5);
  EXPECT_EQ(read.validation.documents, 1);
}

TEST_F(TokenShardTest, ManifestErrorsNameFileAndKey) {
  EXPECT_THAT(ManifestError(), HasSubstr("manifest.json cannot be opened (No such file or directory): make the "
                                         "dataset with `normlab data prepare`"));
  WriteManifestText("{");
  EXPECT_THAT(ManifestError(), HasSubstr("manifest.json is not JSON"));
  WriteManifestText(R"({"format": "normlab-tokens-v1"})");
  EXPECT_THAT(ManifestError(), HasSubstr("manifest.json: format: is \"normlab-tokens-v1\", this program reads "
                                         "\"normlab-tokens-v2\"; prepare the dataset again"));
  const auto error_of = [&](const std::string& tokenizer, const std::string& counts, const std::string& shard) {
    const std::string rest = R"("text_bytes": 9, "empty": 0, "invalid": 0, "shards": [)";
    WriteManifestText(R"({"format": "normlab-tokens-v2", "vocab_size": 10, "eos_id": 1, "source": {}, "tokenizer": {)" +
                      tokenizer + R"(, "sha256": "x"}, "splits": {"validation": {"tokens": 0, "documents": 0, )" +
                      rest + R"(]}, "train": {)" + counts + ", " + rest + "{" + shard + R"(, "sha256": "y"}]}}})");
    return ManifestError();
  };
  const std::string tokenizer = R"("file": "t")", shard = R"("file": "a", "tokens": 4, "documents": 1)";
  EXPECT_EQ(error_of(tokenizer, R"("tokens": 4, "documents": 1)", shard), "no error");
  EXPECT_THAT(error_of(tokenizer, R"("tokens": 5, "documents": 1)", shard),
              HasSubstr("splits.train.tokens: is 5, but the 1 shards have 4 tokens"));
  EXPECT_THAT(error_of(tokenizer, R"("tokens": 4, "documents": 2)", shard),
              HasSubstr("splits.train.documents: is 2, but the 1 shards have 1 documents"));
  EXPECT_THAT(error_of(tokenizer, R"("tokens": 4, "documents": 1)", R"("file": "../a", "tokens": 4, "documents": 1)"),
              HasSubstr("splits.train.shards[0].file: \"../a\" is not a plain file name"));
  EXPECT_THAT(error_of(R"("file": "/t")", R"("tokens": 4, "documents": 1)", shard),
              HasSubstr("tokenizer.file: \"/t\" is not a plain file name"));
  EXPECT_THAT(error_of(tokenizer, R"("tokens": 4, "documents": 1)", shard + R"(, "x": 1)"),
              HasSubstr("splits.train.shards[0]: the key \"x\" is unknown"));
}

}  // namespace
}  // namespace normlab
