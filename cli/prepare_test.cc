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
using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

absl::StatusOr<PrepareResult> MakeDataset(const PrepareOptions& options) {
  const std::atomic<bool> stop = false;
  return Prepare(options, stop);
}

class PrepareTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "in" / "sub");
    fs::create_directories(folder_ / "out");
    for (int i = 0; i < 9; ++i) Write(fmt::format("in/{}.txt", i), MakeText(i));
    WriteGzip("in/sub/z.rst.gz", MakeText(99));
    Write("in/picture.svg", "<svg/>");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  void WriteGzip(const std::string& name, const std::string& text) {
    fs::create_directories((folder_ / name).parent_path());
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
            .validation_every = 5,
            .vocab_size = 300,
            .is_silent = true};
  }
  std::string ErrorOf(const PrepareOptions& options) { return std::string(MakeDataset(options).status().message()); }

  fs::path folder_;
};

TEST_F(PrepareTest, MakesADatasetWhoseTokensAreTheTextAgain) {
  const auto result = MakeDataset(Options("out"));
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
  ASSERT_TRUE(MakeDataset(Options("a")).ok());
  ASSERT_TRUE(MakeDataset(Options("b")).ok());
  for (const char* name : {"tokenizer.model", "manifest.json", "train-00000.tokens", "validation-00000.tokens"}) {
    EXPECT_EQ(Read(std::string("a/") + name), Read(std::string("b/") + name)) << name;
  }
}

TEST_F(PrepareTest, AFinishedFolderIsLeftAloneForTheSameInputAndRefusedForAnother) {
  ASSERT_TRUE(MakeDataset(Options("out")).ok());
  const auto time = fs::last_write_time(folder_ / "out/train-00000.tokens");
  const auto again = MakeDataset(Options("out"));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->was_there);
  EXPECT_EQ(fs::last_write_time(folder_ / "out/train-00000.tokens"), time);
  Write("in/0.txt", MakeText(1000));
  const auto changed = MakeDataset(Options("out"));
  EXPECT_EQ(changed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(changed.status().message()), HasSubstr("holds a dataset of other text or options"));
}

TEST_F(PrepareTest, AFolderWithoutAManifestIsStartedOver) {
  ASSERT_TRUE(MakeDataset(Options("out")).ok());
  const std::string shard = Read("out/train-00000.tokens");
  fs::remove(folder_ / "out/manifest.json");
  Write("out/train-00000.tokens", "torn");
  Write("out/train-00007.tokens", "of an older call");
  Write("out/notes.txt", "mine");
  const auto result = MakeDataset(Options("out"));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->was_there);
  EXPECT_EQ(Read("out/train-00000.tokens"), shard);
  EXPECT_FALSE(fs::exists(folder_ / "out/train-00007.tokens"));
  EXPECT_EQ(Read("out/notes.txt"), "mine");
}

TEST_F(PrepareTest, ADatasetOfAnOlderVersionIsLeftAlone) {
  Write("out/manifest.json", R"({"format": "normlab-tokens-v1"})");
  EXPECT_THAT(ErrorOf(Options("out")), HasSubstr("holds a dataset of another version of normlab"));
}

TEST_F(PrepareTest, AGivenTokenizerIsUsedAsItIs) {
  ASSERT_TRUE(MakeDataset(Options("first")).ok());
  PrepareOptions options = Options("second");
  options.tokenizer = (folder_ / "first/tokenizer.model").string();
  ASSERT_TRUE(MakeDataset(options).ok());
  EXPECT_EQ(Read("second/tokenizer.model"), Read("first/tokenizer.model"));
  options = Options("third");
  options.tokenizer = (folder_ / "in/0.txt").string();
  EXPECT_THAT(ErrorOf(options), HasSubstr("0.txt: not a SentencePiece model"));
}

TEST_F(PrepareTest, DamagedAndUnreadableFilesAreNamed) {
  const std::string packed = Read("in/sub/z.rst.gz");
  Write("in/sub/z.rst.gz", packed.substr(0, packed.size() / 2));
  EXPECT_THAT(ErrorOf(Options("out")), HasSubstr("sub/z.rst.gz cannot be unpacked at byte "));
  Write("in/sub/z.rst.gz", "no gzip");
  EXPECT_THAT(ErrorOf(Options("out")), HasSubstr("sub/z.rst.gz cannot be unpacked at byte 2 (incorrect header check)"));
  fs::remove(folder_ / "in/sub/z.rst.gz");
  Write("in/sub/z.txt", std::string("a\0b", 3));
  EXPECT_THAT(ErrorOf(Options("out")), HasSubstr("sub/z.txt is no text: byte 1 is 0"));
  PrepareOptions options = Options("out");
  options.inputs = {(folder_ / "missing").string()};
  EXPECT_THAT(ErrorOf(options), HasSubstr("missing: No such file or directory"));
  EXPECT_FALSE(fs::exists(folder_ / "out/manifest.json"));
}

/// The documents of a split, decoded, without their end-of-text piece.
std::vector<std::string> Documents(const fs::path& folder, const ManifestSplit& split) {
  std::ifstream model_file(folder / "tokenizer.model", std::ios::binary);
  const auto tokenizer = Tokenizer::FromModel({std::istreambuf_iterator<char>(model_file), {}});
  std::vector<std::string> documents;
  for (const ManifestShard& shard : split.shards) {
    std::ifstream file(folder / shard.file, std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    EXPECT_EQ(Sha256Hex(bytes), shard.sha256);
    const ShardHeader header = DecodeShardHeader(bytes.data(), bytes.size(), shard.file);
    std::vector<uint16_t> tokens(header.num_tokens);
    std::memcpy(tokens.data(), bytes.data() + kShardHeaderBytes, tokens.size() * 2);
    uint64_t begin = 0;
    for (uint64_t i = 0; i < header.num_documents; ++i) {
      uint64_t end;
      std::memcpy(&end, bytes.data() + header.EndsOffset() + i * 8, 8);
      EXPECT_EQ(tokens[end - 1], tokenizer->eos_id());
      documents.push_back(*tokenizer->Decode({tokens.begin() + begin, tokens.begin() + end - 1}));
      begin = end;
    }
  }
  return documents;
}

TEST_F(PrepareTest, LinesOfJsonAreDocumentsAndEveryKthIsHeldOut) {
  ASSERT_TRUE(MakeDataset(Options("first")).ok());
  Write("c4/a.json", R"({"text": "nor 0"}
{"text": "nor 1", "url": "x"}
{"text": ""}
{"text": "nor 3"}
)");
  WriteGzip("c4/b.jsonl.gz", "{\"text\": \"ker 0\"}\n{\"text\": \"ker 1\"}");
  PrepareOptions options = Options("out");
  options.inputs = {(folder_ / "c4").string()};
  options.tokenizer = (folder_ / "first/tokenizer.model").string();
  options.validation_every = 2;  // Lines 1 and 3 of a, line 0 of b.
  const auto result = MakeDataset(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(Documents(options.out, result->manifest.train), ElementsAre("nor 0", "ker 1"));
  EXPECT_THAT(Documents(options.out, result->manifest.validation), ElementsAre("nor 1", "nor 3", "ker 0"));
  EXPECT_EQ(result->manifest.train.empty, 1);
  EXPECT_EQ(result->manifest.train.text_bytes, 10);
}

TEST_F(PrepareTest, WhatIsHeldOutCanBeGiven) {
  PrepareOptions options = Options("out");
  Write("held/v.txt", "nor ker");
  options.validation = {(folder_ / "held").string()};
  const auto result = MakeDataset(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->manifest.train.documents, 10);
  EXPECT_THAT(Documents(options.out, result->manifest.validation), ElementsAre("nor ker"));
}

TEST_F(PrepareTest, ABadLineIsNamedOrCountedAndSkipped) {
  ASSERT_TRUE(MakeDataset(Options("first")).ok());
  std::string lines;
  for (int i = 0; i < 40; ++i) lines += "{\"text\": \"nor\"}\n";
  Write("c4/a.jsonl", lines + "{\"text\": 7}\n{\"text\": \"ker\"}\nno json\n");
  PrepareOptions options = Options("out");
  options.inputs = {(folder_ / "c4").string()};
  options.tokenizer = (folder_ / "first/tokenizer.model").string();
  EXPECT_THAT(ErrorOf(options),
              HasSubstr("c4/a.jsonl line 41 has a number under \"text\", not text; remove it from the "
                        "corpus, or leave out what cannot be read with --skip-invalid"));
  options.skips_invalid = true;
  const auto result = MakeDataset(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->manifest.train.invalid + result->manifest.validation.invalid, 2);
  EXPECT_EQ(result->manifest.train.documents + result->manifest.validation.documents, 41);
}

TEST_F(PrepareTest, ShardsEndWithTheDocumentThatReachesTheirSizeAndThreadsDoNotMatter) {
  PrepareOptions options = Options("a");
  options.shard_tokens = 1500;
  options.threads = 1;
  ASSERT_TRUE(MakeDataset(options).ok());
  const Manifest manifest = ReadManifest(folder_ / "a");
  EXPECT_GT(manifest.train.shards.size(), 2u);
  for (size_t i = 0; i + 1 < manifest.train.shards.size(); ++i) EXPECT_GE(manifest.train.shards[i].tokens, 1500);
  options.out = folder_ / "b";
  options.threads = 5;
  ASSERT_TRUE(MakeDataset(options).ok());
  EXPECT_EQ(Read("a/manifest.json"), Read("b/manifest.json"));
  for (const ManifestShard& shard : manifest.train.shards) EXPECT_EQ(Read("a/" + shard.file), Read("b/" + shard.file));
}

TEST_F(PrepareTest, PromptsAreMaskedAndResponsesAreNot) {
  ASSERT_TRUE(MakeDataset(Options("first")).ok());
  std::string lines;
  for (int i = 0; i < 30; ++i)
    lines += R"({"q": "nor ma", "a": "li za"})"
             "\n"
             R"({"q": "nor", "a": ""})"
             "\n";
  Write("sft/q.jsonl", lines);
  PrepareOptions options = Options("out");
  options.inputs = {(folder_ / "sft").string()};
  options.is_sft = true;
  options.prompt_key = "q";
  options.response_key = "a";
  EXPECT_THAT(ErrorOf(options), HasSubstr("give --tokenizer FILE"));
  options.tokenizer = (folder_ / "first/tokenizer.model").string();
  const auto result = MakeDataset(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->manifest.train.documents + result->manifest.validation.documents, 30);
  EXPECT_EQ(result->manifest.train.empty + result->manifest.validation.empty, 30);
  EXPECT_EQ(Documents(options.out, result->manifest.train).at(0), "nor mali za");
  const std::string shard = Read("out/" + result->manifest.train.shards[0].file);
  const ShardHeader header = DecodeShardHeader(shard.data(), shard.size(), "shard");
  ASSERT_TRUE(header.has_mask);
  const auto tokenizer = Tokenizer::FromModel(Read("out/tokenizer.model"));
  const size_t num_prompt = tokenizer->Encode("nor ma")->size(), num_response = tokenizer->Encode("li za")->size() + 1;
  for (size_t i = 0; i < num_prompt + num_response; ++i) {
    const bool is_target = static_cast<uint8_t>(shard[header.MaskOffset() + i / 8]) >> i % 8 & 1;
    EXPECT_EQ(is_target, i >= num_prompt) << "token " << i;
  }
  options.inputs = {(folder_ / "in").string()};
  EXPECT_THAT(ErrorOf(options), HasSubstr("0.txt is a text file by its name; prompts and responses are read from"));
}

TEST_F(PrepareTest, AStopIsNoFailure) {
  const std::atomic<bool> stop = true;
  EXPECT_TRUE(absl::IsCancelled(Prepare(Options("out"), stop).status()));
  EXPECT_TRUE(fs::is_empty(folder_ / "out"));
}

TEST_F(PrepareTest, TooLittleTextSaysWhatToDo) {
  PrepareOptions options = Options("out");
  options.inputs = {(folder_ / "in/0.txt").string()};
  EXPECT_THAT(ErrorOf(options), HasSubstr("at least 2 files, or give --validation"));
  options = Options("out");
  options.vocab_size = 100'000;
  EXPECT_THAT(ErrorOf(options), HasSubstr("lower --vocab-size"));
  fs::create_directories(folder_ / "empty");
  options.inputs = {(folder_ / "empty").string()};
  EXPECT_THAT(ErrorOf(options), HasSubstr("no text files found"));
}

TEST_F(PrepareTest, LongTextIsEncodedLikeItsLines) {
  ASSERT_TRUE(MakeDataset(Options("out")).ok());
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
