#include "cli/dataset_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "cli/corpus.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class DatasetCheckTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("dataset_check_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    WriteFileDurably(folder_ / "t.model", "pieces");
    manifest_ = {.vocab_size = 10, .eos_id = 1, .tokenizer_file = "t.model", .tokenizer_sha256 = Sha256Hex("pieces")};
    manifest_.source = nlohmann::json::object();
    manifest_.train = {.tokens = 4, .documents = 1, .shards = {Write("train-00000.tokens", {5, 6, 7, 1})}};
    manifest_.validation = {.tokens = 2, .documents = 1, .shards = {Write("validation-00000.tokens", {9, 1})}};
    WriteManifest(folder_, manifest_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  ManifestShard Write(const std::string& file, const std::vector<uint32_t>& tokens) {
    TokenShardWriter writer(folder_ / file, 2);
    writer.AppendDocument(tokens);
    writer.Finish();
    return {.file = file,
            .tokens = static_cast<int64_t>(tokens.size()),
            .documents = 1,
            .sha256 = *Sha256OfFile(folder_ / file)};
  }
  std::string Problem() {
    const auto result = CheckDataset(folder_, [](uint64_t) {});
    return result.ok() ? "none" : std::string(result.status().message());
  }
  void Flip(const std::string& file, int64_t offset) {
    std::fstream stream(folder_ / file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekg(offset);
    const char byte = static_cast<char>(stream.get() ^ 4);
    stream.seekp(offset);
    stream.put(byte);
  }

  fs::path folder_;
  Manifest manifest_;
};

TEST_F(DatasetCheckTest, AGoodDatasetIsReadToItsEnd) {
  uint64_t bytes = 0;
  const auto result = CheckDataset(folder_, [&](uint64_t read) { bytes = read; });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->train.tokens, 4);
  EXPECT_EQ(bytes, fs::file_size(folder_ / "train-00000.tokens") + fs::file_size(folder_ / "validation-00000.tokens"));
}

TEST_F(DatasetCheckTest, EveryFlippedByteIsFound) {
  const auto size = static_cast<int64_t>(fs::file_size(folder_ / "train-00000.tokens"));
  for (int64_t offset = 0; offset < size; ++offset) {
    Flip("train-00000.tokens", offset);
    EXPECT_THAT(Problem(), HasSubstr("train-00000.tokens")) << offset;
    Flip("train-00000.tokens", offset);
  }
  EXPECT_EQ(Problem(), "none");
}

TEST_F(DatasetCheckTest, WhatDiffersIsNamed) {
  fs::resize_file(folder_ / "validation-00000.tokens", 70);
  EXPECT_THAT(Problem(), HasSubstr("validation-00000.tokens is truncated: it has 70 bytes"));
  fs::remove(folder_ / "validation-00000.tokens");
  EXPECT_THAT(Problem(), HasSubstr("validation-00000.tokens: No such file or directory"));
  Write("validation-00000.tokens", {8, 1});
  EXPECT_THAT(Problem(), HasSubstr("validation-00000.tokens (80 bytes) has SHA-256 "));
  Write("validation-00000.tokens", {10, 1});
  EXPECT_THAT(Problem(), HasSubstr("validation-00000.tokens has token 10, the manifest's vocab_size is 10"));
  Write("validation-00000.tokens", {9, 9, 1});
  EXPECT_THAT(Problem(), HasSubstr("has 3 tokens in 1 documents, the manifest says 2 in 1"));
  Flip("t.model", 0);
  EXPECT_THAT(Problem(), HasSubstr("t.model (6 bytes) has SHA-256 "));
  fs::remove(folder_ / kManifestFile);
  EXPECT_THAT(Problem(), HasSubstr("manifest.json cannot be opened"));
}

}  // namespace
}  // namespace normlab::cli
