#include "worker/agent/events.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace normlab::agent {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

using Lines = std::vector<std::pair<std::string, bool>>;

LineSplitter::LineFunction Into(Lines& lines) {
  return [&lines](std::string_view line, bool is_cut) { lines.emplace_back(line, is_cut); };
}

TEST(LineSplitterTest, JoinsWhatComesInPieces) {
  Lines lines;
  LineSplitter splitter(100);
  for (const char* piece : {"a", "b\nc", "\n\nd"}) splitter.Add(piece, Into(lines));
  EXPECT_THAT(lines, ElementsAre(Pair("ab", false), Pair("c", false), Pair("", false)));
  splitter.Finish(Into(lines));
  EXPECT_EQ(lines.back(), std::make_pair(std::string("d"), false));
}

TEST(LineSplitterTest, KeepsTheFirstBytesOfALongLineAndGoesOnWithTheNext) {
  Lines lines;
  LineSplitter splitter(4);
  splitter.Add("abc", Into(lines));
  splitter.Add("defg", Into(lines));
  splitter.Add("h\nxyzw\n", Into(lines));
  EXPECT_THAT(lines, ElementsAre(Pair("abcd", true), Pair("xyzw", false)));
}

TEST(ParseEventLineTest, ReadsATrainersLine) {
  const auto parsed = ParseEventLine(
      R"({"step": {"step": 12, "loss": 3.5, "lr": 0.001, "grad_norm": "NaN", "tokens": 98304, "clipped": true}})",
      false);
  EXPECT_EQ(parsed.warning, "");
  EXPECT_EQ(parsed.event.step().step(), 12);
  EXPECT_EQ(parsed.event.step().tokens(), 98304);
  EXPECT_TRUE(std::isnan(parsed.event.step().grad_norm()));
  EXPECT_TRUE(parsed.event.step().clipped());
}

TEST(ParseEventLineTest, ReadsIntegersAsTextToo) {
  EXPECT_EQ(ParseEventLine(R"({"stopped":{"step":"7"}})", false).event.stopped().step(), 7);
}

TEST(ParseEventLineTest, UsesAnEventWithAnUnknownFieldAndNamesTheField) {
  const auto parsed = ParseEventLine(R"({"stopped":{"step":7,"mood":"sad"}})", false);
  EXPECT_EQ(parsed.event.stopped().step(), 7);
  EXPECT_THAT(parsed.warning, HasSubstr("mood"));
}

TEST(ParseEventLineTest, TakesALineThatIsNoJsonForALogLine) {
  const auto parsed = ParseEventLine("libfoo: hello", false);
  EXPECT_EQ(parsed.event.log().text(), "libfoo: hello");
  EXPECT_EQ(parsed.event.log().severity(), v1::LogLine::INFO);
}

TEST(ParseEventLineTest, SaysWhatIsWrongWithJsonThatIsNoEvent) {
  for (const char* line : {R"({"step":{"step":"many"}})", R"({"step":)", R"({"dance":{}})", "{}"}) {
    const auto parsed = ParseEventLine(line, false);
    EXPECT_EQ(parsed.event.log().severity(), v1::LogLine::WARNING) << line;
    EXPECT_THAT(parsed.event.log().text(), HasSubstr(line));
  }
  EXPECT_THAT(ParseEventLine(R"({"dance":{}})", false).event.log().text(), HasSubstr("dance"));
}

TEST(ParseEventLineTest, DropsAnEventThatWasCutAndSaysSo) {
  const auto parsed = ParseEventLine(R"({"step":{"step":1)" + std::string(1000, ' '), true);
  EXPECT_THAT(parsed.event.log().text(), AllOf(HasSubstr("longer than"), HasSubstr(R"({"step":{"step":1)")));
  EXPECT_LT(parsed.event.log().text().size(), 500u);
}

TEST(ParseEventLineTest, SurvivesDeepNesting) {
  const auto parsed = ParseEventLine(std::string(100'000, '{'), false);
  EXPECT_TRUE(parsed.event.has_log());
}

TEST(ParseEventLineTest, BoundsTheTextOfALog) {
  const auto parsed = ParseEventLine(R"({"log":{"text":")" + std::string(100'000, 'x') + R"("}})", false);
  EXPECT_EQ(parsed.event.log().text().size(), kLogLineBytesMax);
}

TEST(ValidUtf8Test, KeepsWhatIsValid) {
  const std::string text = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z";
  EXPECT_EQ(ValidUtf8(text, 100), text);
}

TEST(ValidUtf8Test, ReplacesWhatIsNot) {
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(ValidUtf8("a\xff"
                      "b",
                      100),
            "a" + bad + "b");
  EXPECT_EQ(ValidUtf8("\xc3", 100), bad);
  EXPECT_EQ(ValidUtf8("\xc0\x80", 100), bad + bad);                      // Overlong.
  EXPECT_EQ(ValidUtf8("\xed\xa0\x80", 100), bad + bad + bad);            // A surrogate.
  EXPECT_EQ(ValidUtf8("\xf4\x90\x80\x80", 100), bad + bad + bad + bad);  // Above U+10FFFF.
}

TEST(LogEventTest, CanAlwaysBeSent) {
  const v1::TrainerEvent event = LogEvent(v1::LogLine::ERROR, std::string(100, '\xfe'));
  v1::TrainerEvent copy;
  EXPECT_TRUE(copy.ParseFromString(event.SerializeAsString()));
}

}  // namespace
}  // namespace normlab::agent
