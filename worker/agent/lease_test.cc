#include "worker/agent/lease.h"

#include "gtest/gtest.h"

namespace normlab::agent {
namespace {

constexpr absl::Time kStart = absl::UnixEpoch();

TEST(LeaseTest, IsOverAtItsExpiryAndNotBefore) {
  Lease lease;
  lease.Grant(kStart, absl::Seconds(30));
  EXPECT_FALSE(lease.IsOver(kStart + absl::Seconds(29)));
  EXPECT_TRUE(lease.IsOver(kStart + absl::Seconds(30)));
  EXPECT_EQ(lease.Remaining(kStart + absl::Seconds(29)), absl::Seconds(1));
  EXPECT_EQ(lease.Remaining(kStart + absl::Seconds(31)), absl::ZeroDuration());
}

TEST(LeaseTest, IsNotOverBeforeItWasEverGranted) {
  EXPECT_FALSE(Lease().IsOver(kStart));
  EXPECT_EQ(Lease().Remaining(kStart), absl::ZeroDuration());
}

TEST(LeaseTest, CountsFromTheSendingOfTheAnsweredHeartbeatHoweverLateTheAnswer) {
  Lease lease;
  lease.Grant(kStart, absl::Seconds(30));
  lease.HeartbeatSent(kStart + absl::Seconds(10));
  lease.HeartbeatSent(kStart + absl::Seconds(20));
  EXPECT_EQ(lease.oldest_unanswered(), kStart + absl::Seconds(10));
  EXPECT_TRUE(lease.Renewed());
  EXPECT_EQ(lease.expires_at(), kStart + absl::Seconds(40));
  EXPECT_TRUE(lease.Renewed());
  EXPECT_EQ(lease.expires_at(), kStart + absl::Seconds(50));
  EXPECT_EQ(lease.oldest_unanswered(), std::nullopt);
}

TEST(LeaseTest, IsNotRenewedByAnAnswerToNothing) {
  Lease lease;
  lease.Grant(kStart, absl::Seconds(30));
  EXPECT_FALSE(lease.Renewed());
  EXPECT_EQ(lease.expires_at(), kStart + absl::Seconds(30));
}

TEST(LeaseTest, GoesOnOverADisconnectWhichForgetsTheUnansweredHeartbeats) {
  Lease lease;
  lease.Grant(kStart, absl::Seconds(30));
  lease.HeartbeatSent(kStart + absl::Seconds(10));
  lease.Disconnected();
  EXPECT_EQ(lease.expires_at(), kStart + absl::Seconds(30));
  EXPECT_FALSE(lease.Renewed());
}

TEST(LeaseTest, IsNeverShortenedByAnOlderGrant) {
  Lease lease;
  lease.Grant(kStart + absl::Seconds(10), absl::Seconds(30));
  lease.Grant(kStart, absl::Seconds(30));
  EXPECT_EQ(lease.expires_at(), kStart + absl::Seconds(40));
}

}  // namespace
}  // namespace normlab::agent
