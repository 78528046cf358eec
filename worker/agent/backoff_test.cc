#include "worker/agent/backoff.h"

#include "common/rate_limit.h"
#include "gtest/gtest.h"

namespace normlab::agent {
namespace {

TEST(BackoffTest, TriesAtOnceThenDoublesUpToItsBoundWithJitterBelow) {
  Backoff backoff(absl::Seconds(1), absl::Seconds(8), /*seed=*/1);
  EXPECT_EQ(backoff.Next(), absl::ZeroDuration());
  for (const int bound : {1, 2, 4, 8, 8, 8}) {
    const absl::Duration wait = backoff.Next();
    EXPECT_GE(wait, absl::Seconds(bound) / 2);
    EXPECT_LE(wait, absl::Seconds(bound));
  }
  backoff.Reset();
  EXPECT_EQ(backoff.Next(), absl::ZeroDuration());
}

TEST(BackoffTest, DiffersBetweenWorkers) {
  Backoff one(absl::Seconds(1), absl::Seconds(8), /*seed=*/1), other(absl::Seconds(1), absl::Seconds(8), /*seed=*/2);
  one.Next();
  other.Next();
  EXPECT_NE(one.Next(), other.Next());
}

TEST(RateLimitTest, AllowsABurstThenTheRate) {
  RateLimit limit(/*per_second=*/2, /*burst=*/3);
  const absl::Time start = absl::UnixEpoch();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(limit.Allow(start));
  EXPECT_FALSE(limit.Allow(start));
  EXPECT_TRUE(limit.Allow(start + absl::Milliseconds(500)));
  EXPECT_FALSE(limit.Allow(start + absl::Milliseconds(500)));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(limit.Allow(start + absl::Hours(1)));
  EXPECT_FALSE(limit.Allow(start + absl::Hours(1)));
}

}  // namespace
}  // namespace normlab::agent
