#include "common/depth_expression.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace normlab {
namespace {

using ::testing::HasSubstr;

double Value(const char* text) { return DepthExpression(text)({.l = 4, .L = 12, .p = 0.5, .q = -3}); }

struct Failure {
  size_t offset = 0;
  std::string message;
};

Failure FailureOf(const std::string& text) {
  try {
    DepthExpression{text};
  } catch (const DepthExpressionError& error) {
    return {error.offset, error.what()};
  }
  ADD_FAILURE() << text << " was read";
  return {};
}

TEST(DepthExpressionTest, OperatorsBindAsInAFormula) {
  EXPECT_EQ(Value("1 + 2 * 3"), 7);
  EXPECT_EQ(Value("7 - 2 - 3"), 2);
  EXPECT_EQ(Value("24 / 4 / 2"), 3);
  EXPECT_EQ(Value("2 ^ 3 ^ 2"), 512);
  EXPECT_EQ(Value("-2 ^ 2"), -4);
  EXPECT_EQ(Value("2 * -3"), -6);
  EXPECT_EQ(Value("(1 + 2) * 3"), 9);
  EXPECT_EQ(Value("--2"), 2);
}

TEST(DepthExpressionTest, DepthAndParametersStandForTheirNumbers) {
  EXPECT_EQ(Value("l^-p"), 0.5);
  EXPECT_DOUBLE_EQ(Value("(2*L)^0.25"), std::pow(24, 0.25));
  EXPECT_DOUBLE_EQ(Value("1 / sqrt(2 * l)"), 1 / std::sqrt(8));
  EXPECT_EQ(Value("q"), -3);
}

TEST(DepthExpressionTest, FunctionsAreThoseOfTheirNames) {
  EXPECT_DOUBLE_EQ(Value("log(L)"), std::log(12));
  EXPECT_DOUBLE_EQ(Value("exp(-l)"), std::exp(-4));
  EXPECT_EQ(Value("floor(2.7)"), 2);
  EXPECT_EQ(Value("min(l, L) + max(l, L)"), 16);
  EXPECT_TRUE(std::isinf(Value("1/(l-4)")));
}

TEST(DepthExpressionTest, AnErrorSaysWhereAndWhatWasExpected) {
  EXPECT_EQ(FailureOf("l^^p").offset, 2u);
  EXPECT_EQ(FailureOf("2L").offset, 1u);
  EXPECT_THAT(FailureOf("2L").message, HasSubstr("expected an operator instead of 'L'"));
  EXPECT_EQ(FailureOf("(l + 1").offset, 6u);
  EXPECT_THAT(FailureOf("(l + 1").message, HasSubstr("ends where ')' should be"));
  EXPECT_THAT(FailureOf("").message, HasSubstr("ends where a number should be"));
  EXPECT_EQ(FailureOf("1 + depth").offset, 4u);
  EXPECT_THAT(FailureOf("1 + depth").message, HasSubstr("'depth' is unknown; there are l, L, p, q, sqrt"));
  EXPECT_THAT(FailureOf("min(l)").message, HasSubstr("expected ',' instead of ')'"));
  EXPECT_THAT(FailureOf("sqrt l").message, HasSubstr("expected '(' instead of 'l'"));
  EXPECT_THAT(FailureOf("1e999").message, HasSubstr("no number that a double holds"));
  EXPECT_EQ(FailureOf("l;system").offset, 1u);
}

TEST(DepthExpressionTest, NestingAndSizeHaveALimit) {
  EXPECT_THAT(FailureOf(std::string(200, '(') + "l").message, HasSubstr("nested deeper than 32"));
  EXPECT_THAT(FailureOf(std::string(200, '-') + "l").message, HasSubstr("nested deeper than 32"));
  EXPECT_THAT(FailureOf(std::string(300, '1')).message, HasSubstr("300 bytes, at most 256"));
}

}  // namespace
}  // namespace normlab
