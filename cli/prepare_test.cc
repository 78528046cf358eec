#include "cli/prepare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <fstream>
#include <iterator>
#include <random>

#include "cli/corpus.h"
#include "cli/tokenizer.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::SizeIs;

/// Text with enough different words for a small vocabulary; the same for the same seed.
std::string MakeText(int seed) {
  static constexpr const char* kSyllables[] = {"nor", "ma", "li",  "za",  "tion", "ker", "nel", "ten",  "sor", "la",
                                               "yer", "de", "pth", "cur", "se",   "of",  "pre", "post", "mix", "deep"};
  std::mt19937 random(seed);
  std::string text;
  for (int line = 0; line < 60; ++line) {
    for (int word = 0; word < 9; ++word) {
      for (int i = 0; i < 3; ++i) text += kSyllables[random() % std::size(kSyllables)];
      text += " ";
    }
    text += "\n";
  }
  return text;
}

class PrepareTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "in" / "sub");
    for (int i = 0; i < 9; ++i) Write(fmt::format("in/{}.txt", i), MakeText(i));
    WriteGzip("in/sub/z.rst.gz", MakeText(99));
    Write("in/picture.svg", "<svg/>");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  void WriteGzip(const std::string& name, const std::string& text) {
    gzFile file = gzopen((folder_ / name).c_str(), "wb");
    gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
    gzclose(file);
  }
  std::string Read(const std::string& name) {
    std::ifstream file(folder_ / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  PrepareOptions Options(const std::string& out) {
    return {.out = folder_ / out,
            .inputs = {(folder_ / "in").string()},
            .vocab_size = 300,
            .validation_every = 5,
            .is_silent = true};
  }
  std::string ErrorOf(const PrepareOptions& options) { return std::string(Prepare(options).status().message()); }

  fs::path folder_;
};

TEST_F(PrepareTest, MakesADatasetWhoseTokensAreTheTextAgain) {
  const auto result = Prepare(Options("out"));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->manifest.train.documents, 8);
  EXPECT_EQ(result->manifest.validation.documents, 2);
  EXPECT_EQ(result->manifest.vocab_size, 300);
  EXPECT_EQ(result->skipped_files, 1);
  const Manifest read = ReadManifest(folder_ / "out");
  EXPECT_EQ(read.train.tokens, result->manifest.train.tokens);
  // Validation has the files 4.txt and sub/z.rst.gz: the 5th and the 10th in order of name.
  const std::string shard = Read("out/" + read.validation.shards[0].file);
  const ShardHeader header = DecodeShardHeader(shard.data(), shard.size(), "shard");
  std::vector<uint16_t> tokens(header.num_tokens);
  std::memcpy(tokens.data(), shard.data() + kShardHeaderBytes, tokens.size() * 2);
  const auto tokenizer = Tokenizer::FromModel(Read("out/tokenizer.model"));
  ASSERT_TRUE(tokenizer.ok());
  const auto eos = std::find(tokens.begin(), tokens.end(), tokenizer->eos_id());
  EXPECT_EQ(*tokenizer->Decode({tokens.begin(), eos}), MakeText(4));
  EXPECT_EQ(*tokenizer->Decode({eos + 1, tokens.end() - 1}), MakeText(99));
  EXPECT_EQ(tokens.back(), tokenizer->eos_id());
}

TEST_F(PrepareTest, TheSameInputGivesTheSameBytes) {
  ASSERT_TRUE(Prepare(Options("a")).ok());
  ASSERT_TRUE(Prepare(Options("b")).ok());
  for (const char* name : {"tokenizer.model", "manifest.json", "train-00000.tokens", "validation-00000.tokens"}) {
    EXPECT_EQ(Read(std::string("a/") + name), Read(std::string("b/") + name)) << name;
  }
}

TEST_F(PrepareTest, AFinishedFolderIsLeftAloneForTheSameInputAndRefusedForAnother) {
  ASSERT_TRUE(Prepare(Options("out")).ok());
  const auto time = fs::last_write_time(folder_ / "out/train-00000.tokens");
  const auto again = Prepare(Options("out"));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->was_there);
  EXPECT_EQ(fs::last_write_time(folder_ / "out/train-00000.tokens"), time);
  Write("in/0.txt", MakeText(1000));
  const auto changed = Prepare(Options("out"));
  EXPECT_EQ(changed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(changed.status().message()), HasSubstr("holds a dataset of other text or options"));
}

TEST_F(PrepareTest, AFolderWithoutAManifestIsStartedOver) {
  ASSERT_TRUE(Prepare(Options("out")).ok());
  fs::remove(folder_ / "out/manifest.json");
  Write("out/train-00000.tokens", "torn");
  const auto result = Prepare(Options("out"));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->was_there);
}

TEST_F(PrepareTest, AGivenTokenizerIsUsedAsItIs) {
  ASSERT_TRUE(Prepare(Options("first")).ok());
  PrepareOptions options = Options("second");
  options.tokenizer = (folder_ / "first/tokenizer.model").string();
  ASSERT_TRUE(Prepare(options).ok());
  EXPECT_EQ(Read("second/tokenizer.model"), Read("first/tokenizer.model"));
  options = Options("third");
  options.tokenizer = (folder_ / "in/0.txt").string();
  EXPECT_THAT(ErrorOf(options), HasSubstr("0.txt: not a SentencePiece model"));
}

TEST_F(PrepareTest, DamagedAndUnreadableFilesAreNamed) {
  const std::string packed = Read("in/sub/z.rst.gz");
  Write("in/sub/z.rst.gz", packed.substr(0, packed.size() / 2));
  EXPECT_THAT(ErrorOf(Options("out")), HasSubstr("sub/z.rst.gz cannot be unpacked (unexpected end of file)"));
  Write("in/sub/z.rst.gz", "no gzip");
  EXPECT_THAT(ErrorOf(Options("out")), HasSubstr("sub/z.rst.gz is not in gzip format"));
  fs::remove(folder_ / "in/sub/z.rst.gz");
  Write("in/sub/z.txt", std::string("a\0b", 3));
  EXPECT_THAT(ErrorOf(Options("out")), HasSubstr("sub/z.txt is no text: byte 1 is 0"));
  PrepareOptions options = Options("out");
  options.inputs = {(folder_ / "missing").string()};
  EXPECT_THAT(ErrorOf(options), HasSubstr("missing: No such file or directory"));
  EXPECT_FALSE(fs::exists(folder_ / "out/manifest.json"));
}

TEST_F(PrepareTest, TooLittleTextSaysWhatToDo) {
  PrepareOptions options = Options("out");
  options.inputs = {(folder_ / "in/0.txt").string()};
  EXPECT_THAT(ErrorOf(options), HasSubstr("split the text into at least 2 files"));
  options = Options("out");
  options.vocab_size = 100'000;
  EXPECT_THAT(ErrorOf(options), HasSubstr("lower --vocab-size"));
  fs::create_directories(folder_ / "empty");
  options.inputs = {(folder_ / "empty").string()};
  EXPECT_THAT(ErrorOf(options), HasSubstr("no text files found"));
}

TEST_F(PrepareTest, LongTextIsEncodedLikeItsLines) {
  ASSERT_TRUE(Prepare(Options("out")).ok());
  const auto tokenizer = Tokenizer::FromModel(Read("out/tokenizer.model"));
  ASSERT_TRUE(tokenizer.ok());
  std::string text;
  while (text.size() < 600'000) text += MakeText(static_cast<int>(text.size()));
  text += "Grüße 你好\t\x01 tail without line end";
  const auto ids = tokenizer->Encode(text);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(*tokenizer->Decode(*ids), text);
}

}  // namespace
}  // namespace normlab::cli
