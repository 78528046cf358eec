#include "common/token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace normlab {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class TokenFileTest : public ::testing::Test {
 protected:
  TokenFileTest() { std::filesystem::create_directories(folder_); }
  ~TokenFileTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& text) {
    const std::string path = (folder_ / "token").string();
    std::ofstream(path, std::ios::trunc) << text;
    return path;
  }

  const std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) / ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST(TokenTest, ParsesWhatItMakesAndNothingElse) {
  const Token token = NewToken();
  const std::string text = token.ToString();
  const auto parsed = ParseToken(text);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->id, token.id);
  EXPECT_EQ(parsed->secret, token.secret);
  for (const std::string& bad :
       {std::string(), std::string("nlt_"), text + "0", text.substr(1), " " + text, "NLT" + text.substr(3),
        text.substr(0, text.size() - 1) + "G", text.substr(0, 16) + "-" + text.substr(17)}) {
    EXPECT_FALSE(ParseToken(bad).has_value()) << bad;
  }
}

TEST(TokenTest, IsNeverMadeTwice) {
  EXPECT_NE(NewToken().secret, NewToken().secret);
  EXPECT_NE(NewToken().id, NewToken().id);
}

TEST(TokenTest, MatchesItsOwnHashOnly) {
  // The hash of a known text, so that stored tokens stay valid over versions.
  EXPECT_EQ(HashTokenSecret("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const Token token = NewToken();
  const std::string hash = HashTokenSecret(token.secret);
  EXPECT_TRUE(MatchesTokenHash(token.secret, hash));
  EXPECT_FALSE(MatchesTokenHash(NewToken().secret, hash));
  EXPECT_FALSE(MatchesTokenHash(token.secret, ""));
}

TEST_F(TokenFileTest, GivesTheTokenWithoutTheBlanksAroundIt) {
  const std::string token = NewToken().ToString();
  const auto read = ReadTokenFile(Write("\n " + token + "\r\n"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, token);
}

TEST_F(TokenFileTest, SaysWhatIsWrongWithoutShowingTheContent) {
  const absl::Status missing = ReadTokenFile(folder_ / "nowhere").status();
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("nowhere"));
  const absl::Status bad = ReadTokenFile(Write("hunter2 " + NewToken().ToString())).status();
  EXPECT_TRUE(absl::IsInvalidArgument(bad));
  EXPECT_THAT(std::string(bad.message()), Not(HasSubstr("hunter2")));
  EXPECT_THAT(std::string(bad.message()), Not(HasSubstr("nlt_0")));
}

TEST_F(TokenFileTest, IsReadAgainWhenItChanges) {
  const std::string first = NewToken().ToString(), second = NewToken().ToString();
  TokenFile file(Write(first));
  EXPECT_EQ(*file.Get(), first);
  const std::string other = (folder_ / "other").string();
  ASSERT_TRUE(WriteTokenFile(other, second).ok());
  std::filesystem::rename(other, folder_ / "token");
  EXPECT_EQ(*file.Get(), second);
  std::filesystem::remove(folder_ / "token");
  EXPECT_TRUE(absl::IsNotFound(file.Get().status()));
}

TEST_F(TokenFileTest, IsWrittenForItsOwnerAloneAndOverNothing) {
  const std::string path = (folder_ / "new").string();
  ASSERT_TRUE(WriteTokenFile(path, NewToken().ToString()).ok());
  struct stat info;
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_TRUE(absl::IsAlreadyExists(WriteTokenFile(path, NewToken().ToString())));
}

}  // namespace
}  // namespace normlab
