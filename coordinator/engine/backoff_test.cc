#include <gtest/gtest.h>

#include "coordinator/engine/engine.h"

namespace normlab::engine {
namespace {

TEST(BackoffTest, DoublesWithEachFailureUpToItsMaximum) {
  const Options options = {.backoff_first = absl::Seconds(2), .backoff_max = absl::Seconds(60)};
  EXPECT_EQ(Backoff(options, 1), absl::Seconds(2));
  EXPECT_EQ(Backoff(options, 2), absl::Seconds(4));
  EXPECT_EQ(Backoff(options, 5), absl::Seconds(32));
  EXPECT_EQ(Backoff(options, 6), absl::Seconds(60));
}

TEST(BackoffTest, StaysAtItsMaximumAfterTheMostRetriesThatASpecMayAsk) {
  EXPECT_EQ(Backoff(Options(), 1000), Options().backoff_max);
}

}  // namespace
}  // namespace normlab::engine
