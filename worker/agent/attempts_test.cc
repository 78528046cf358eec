#include "worker/agent/attempts.h"

#include "gtest/gtest.h"

namespace normlab::agent {
namespace {

AttemptKey Key(int run, int attempt, int rank = 0) {
  return {.run = {.experiment = {.number = 1}, .index = run}, .attempt = attempt, .rank = rank};
}

TEST(AttemptsTest, StartsAnAttemptOnce) {
  Attempts attempts;
  EXPECT_EQ(attempts.Decide(Key(1, 1)), StartDecision::kStart);
  attempts.Begin(Key(1, 1));
  EXPECT_EQ(attempts.Decide(Key(1, 1)), StartDecision::kLives);
  attempts.End(Key(1, 1));
  EXPECT_EQ(attempts.Decide(Key(1, 1)), StartDecision::kEnded);
  EXPECT_EQ(attempts.current(), std::nullopt);
}

TEST(AttemptsTest, RunsOneAtATime) {
  Attempts attempts;
  attempts.Begin(Key(1, 1));
  EXPECT_EQ(attempts.Decide(Key(2, 1)), StartDecision::kBusy);
  EXPECT_EQ(attempts.Decide(Key(1, 1, /*rank=*/1)), StartDecision::kBusy);
  EXPECT_EQ(attempts.Decide(Key(1, 2)), StartDecision::kBusy);
}

TEST(AttemptsTest, StartsALaterAttemptOfAnEndedRunAndNeverAnEarlierOne) {
  Attempts attempts;
  attempts.End(Key(1, 3));
  EXPECT_EQ(attempts.Decide(Key(1, 2)), StartDecision::kEnded);
  EXPECT_EQ(attempts.Decide(Key(1, 4)), StartDecision::kStart);
}

TEST(AttemptsTest, EndingAnotherAttemptLeavesTheCurrentOne) {
  Attempts attempts;
  attempts.Begin(Key(1, 1));
  attempts.End(Key(2, 1));
  EXPECT_EQ(attempts.current(), Key(1, 1));
  EXPECT_TRUE(attempts.HasEnded(Key(2, 1)));
}

TEST(AttemptsTest, RemembersTheLastRunsOnly) {
  Attempts attempts(/*runs_max=*/2);
  for (int run = 1; run <= 3; ++run) attempts.End(Key(run, 1));
  EXPECT_FALSE(attempts.HasEnded(Key(1, 1)));
  EXPECT_TRUE(attempts.HasEnded(Key(2, 1)));
  EXPECT_TRUE(attempts.HasEnded(Key(3, 1)));
}

TEST(AttemptKeyTest, SurvivesTheWay) {
  EXPECT_EQ(AttemptKey::FromProto(Key(3, 2, 1).ToProto()), Key(3, 2, 1));
  EXPECT_EQ(Key(3, 2, 1).ToString(), "exp-0001.03.2.1");
}

TEST(AttemptKeyTest, RefusesWhatCouldLeaveTheWorkFolder) {
  v1::AttemptRef ref = Key(1, 1).ToProto();
  ref.set_run_id("../../etc");
  EXPECT_EQ(AttemptKey::FromProto(ref), std::nullopt);
  ref = Key(1, 1).ToProto();
  ref.set_attempt(0);
  EXPECT_EQ(AttemptKey::FromProto(ref), std::nullopt);
}

}  // namespace
}  // namespace normlab::agent
