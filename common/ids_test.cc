#include "common/ids.h"

#include <gtest/gtest.h>

namespace normlab {
namespace {

TEST(IdsTest, TextFormsRoundTrip) {
  const RunId run{{1}, 3};
  EXPECT_EQ(run.ToString(), "exp-0001.03");
  EXPECT_EQ(RunId::Parse("exp-0001.03"), run);
  EXPECT_EQ(ExperimentId::Parse("exp-12345"), ExperimentId{12345});
}

TEST(IdsTest, OrderIsByNumberAlsoPastThePadding) {
  EXPECT_LT(*RunId::Parse("exp-0001.99"), *RunId::Parse("exp-0001.100"));
  EXPECT_LT(*ExperimentId::Parse("exp-9999"), *ExperimentId::Parse("exp-10000"));
}

TEST(IdsTest, WhatIsNoIdGivesNothing) {
  for (const char* text : {"", "exp-", "exp-0", "exp--1", "exp-0001x", "run-0001", "exp-99999999999999999999"}) {
    EXPECT_FALSE(ExperimentId::Parse(text)) << text;
  }
  for (const char* text : {"exp-0001", "exp-0001.", "exp-0001.0", "exp-0001.-1", "exp-0001.1.1", ".01"}) {
    EXPECT_FALSE(RunId::Parse(text)) << text;
  }
}

}  // namespace
}  // namespace normlab
