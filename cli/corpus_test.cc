#include "cli/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <fstream>
#include <map>

#include "cli/corpus_file.h"
#include "cli/corpus_json.h"
#include "cli/corpus_reader.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::string Zstd(const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

/// Bytes that do not pack well, the same every time.
std::string Noise(size_t size) {
  std::string text;
  uint64_t state = 1;
  while (text.size() < size) {
    state = state * 6364136223846793005 + 1442695040888963407;
    text += static_cast<char>('a' + (state >> 60));
  }
  return text;
}

class CorpusTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("corpus_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& bytes) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return (folder_ / name).string();
  }
  absl::StatusOr<std::string> Unpack(const std::string& path) {
    auto stream = CorpusStream::Open(path);
    if (!stream.ok()) return stream.status();
    std::string text;
    std::vector<char> buffer(1000);
    while (true) {
      const auto size = (*stream)->Read(buffer);
      if (!size.ok()) return size.status();
      if (*size == 0) return text;
      text.append(buffer.data(), *size);
    }
  }
  std::string UnpackError(const std::string& name, const std::string& bytes) {
    return std::string(Unpack(Write(name, bytes)).status().message());
  }
  /// Each document as "FILE:LINE TEXT".
  static std::vector<std::string> Documents(const Corpus& corpus) {
    CorpusReader reader(corpus, 0, corpus.files.size());
    std::vector<std::string> found;
    RawDocument document;
    while (*reader.Next(&document)) {
      found.push_back(fmt::format("{}:{} {}", document.position.file, document.position.line, document.bytes));
    }
    return found;
  }

  fs::path folder_;
};

TEST_F(CorpusTest, UnpacksAllMembersAndFramesOfFilesLargerThanAnyBuffer) {
  const std::string first = Noise(300'000), second = Noise(200'001);
  EXPECT_EQ(*Unpack(Write("a.gz", Gzip(first) + Gzip("") + Gzip(second))), first + second);
  EXPECT_EQ(*Unpack(Write("a.zst", Zstd(first) + Zstd("") + Zstd(second))), first + second);
  EXPECT_EQ(*Unpack(Write("a.txt", first)), first);
  EXPECT_EQ(*Unpack(Write("empty.gz", "")), "");
  EXPECT_EQ(*Unpack(Write("empty.zst", "")), "");
}

TEST_F(CorpusTest, DamageIsNamedWithFileAndByte) {
  const std::string gzip = Gzip(Noise(300'000)), zstd = Zstd(Noise(300'000));
  EXPECT_THAT(UnpackError("cut.gz", gzip.substr(0, 50'000)),
              HasSubstr("cut.gz cannot be unpacked at byte 50000 (unexpected end of file)"));
  EXPECT_THAT(UnpackError("cut.zst", zstd.substr(0, 50'000)),
              HasSubstr("cut.zst cannot be unpacked at byte 50000 (unexpected end of file)"));
  EXPECT_THAT(UnpackError("no.gz", "no gzip at all"), HasSubstr("no.gz cannot be unpacked at byte "));
  EXPECT_THAT(UnpackError("no.zst", "no zstd at all"), HasSubstr("(Unknown frame descriptor)"));
  std::string flipped = gzip;
  flipped[flipped.size() - 6] ^= 1;
  EXPECT_THAT(UnpackError("flipped.gz", flipped), HasSubstr("(incorrect data check)"));
}

TEST_F(CorpusTest, EveryCutOfAPackedFileIsFound) {
  const std::string gzip = Gzip(Noise(200)), zstd = Zstd(Noise(200));
  for (size_t size = 1; size < gzip.size(); ++size) {
    EXPECT_FALSE(Unpack(Write("cut.gz", gzip.substr(0, size))).ok()) << size;
  }
  for (size_t size = 1; size < zstd.size(); ++size) {
    EXPECT_FALSE(Unpack(Write("cut.zst", zstd.substr(0, size))).ok()) << size;
  }
}

TEST_F(CorpusTest, FindsFilesByNameInOrderAndHeldOutOnesBehind) {
  for (const char* name : {"in/b.txt", "in/a.jsonl.zst", "in/sub/c.rst.gz", "in/x.svg", "in/c4.json.gz"})
    Write(name, "");
  Write("held/a.txt", "");
  const auto corpus = FindCorpus({(folder_ / "in").string(), Write("named.log", "")}, {(folder_ / "held").string()});
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  std::vector<std::string> names;
  for (const CorpusFile& file : corpus->files) {
    names.push_back(file.name + (file.format == CorpusFormat::kJsonLines ? " json" : "") +
                    (file.is_validation ? " held out" : ""));
  }
  EXPECT_THAT(names, ElementsAre("a.jsonl.zst json", "b.txt", "c4.json.gz json", "named.log", "sub/c.rst.gz",
                                 "a.txt held out"));
  EXPECT_EQ(corpus->skipped, 1);
}

TEST_F(CorpusTest, ATextFileIsOneDocumentAndEachLineOfJsonIsOne) {
  Write("in/a.txt", "one\ntwo\n");
  Write("in/b.jsonl.gz", Gzip("{1}\n\n  \r\n{2}\r\n") + Gzip("{3}"));
  Write("in/c.json", "");
  Write("in/d.txt", "");
  EXPECT_THAT(Documents(*FindCorpus({(folder_ / "in").string()}, {})),
              ElementsAre("0:0 one\ntwo\n", "1:0 {1}", "1:3 {2}\r", "1:4 {3}", "3:0 "));
}

TEST_F(CorpusTest, LinesLongerThanTheBufferAreWhole) {
  const std::string line = Noise(600'000);
  const auto documents = Documents(*FindCorpus({Write("a.jsonl", line + "\n" + line + "x\n")}, {}));
  EXPECT_THAT(documents, ElementsAre("0:0 " + line, "0:1 " + line + "x"));
}

TEST_F(CorpusTest, TheDigestDependsOnNamesContentsAndWhatIsHeldOut) {
  const auto digest = [&](const std::string& in, const std::string& held) {
    return *DigestCorpus(*FindCorpus({in}, held.empty() ? std::vector<std::string>{} : std::vector{held}), false,
                         [](uint64_t) {});
  };
  const std::string a = Write("1/a.txt", "text"), same = Write("2/a.txt", "text"), renamed = Write("1/b.txt", "text"),
                    changed = Write("3/a.txt", "texT");
  EXPECT_EQ(digest(a, ""), digest(same, ""));
  EXPECT_NE(digest(a, ""), digest(renamed, ""));
  EXPECT_NE(digest(a, ""), digest(changed, ""));
  EXPECT_NE(digest(a, renamed), digest(renamed, a));
  EXPECT_TRUE(absl::IsCancelled(DigestCorpus(*FindCorpus({a}, {}), true, [](uint64_t) {}).status()));
}

std::string JsonError(const std::string& line) { return std::string(ReadJsonTexts(line, {"text"}).status().message()); }

TEST(CorpusJsonTest, ReadsTheTextsUnderTheKeys) {
  EXPECT_THAT(*ReadJsonTexts(R"({"text": "Grüße \u4f60\n", "url": "x", "n": [1]})", {"text"}),
              ElementsAre("Grüße 你\n"));
  EXPECT_THAT(*ReadJsonTexts(R"({"b": "2", "a": ""})", {"a", "b"}), ElementsAre("", "2"));
}

TEST(CorpusJsonTest, SaysWhatIsWrongWithALine) {
  EXPECT_THAT(JsonError(R"({"text": "cut off)"), HasSubstr("is not JSON at byte 18: "));
  EXPECT_EQ(JsonError("[1]"), "is JSON, but array and no object");
  EXPECT_EQ(JsonError(R"({"txt": ""})"), "has no key \"text\"");
  EXPECT_EQ(JsonError(R"({"text": 3})"), "has a number under \"text\", not text");
  EXPECT_EQ(JsonError("{\"text\": \"a\\u0000\"}"), "has a zero character at byte 1 of \"text\"");
  EXPECT_THAT(JsonError("{\"text\": \"\xff\"}"), HasSubstr("is not JSON at byte 11: "));
  EXPECT_THAT(JsonError(R"({"text": "\ud800"})"), HasSubstr("is not JSON"));
  EXPECT_THAT(JsonError(R"({"text": "a", "n": 1e999})"),
              HasSubstr("has a number that cannot be read: number overflow"));
  EXPECT_THAT(JsonError(std::string(100'000, '[')), HasSubstr("is not JSON")) << "no recursion may end the stack";
}

}  // namespace
}  // namespace normlab::cli
