#include "worker/agent/progress.h"

#include "gtest/gtest.h"

namespace normlab::agent {
namespace {

const absl::Time kStart = absl::UnixEpoch();
absl::Time At(int seconds) { return kStart + absl::Seconds(seconds); }

TEST(ProgressWatchTest, IsDueOneTimeoutAfterTheLastReport) {
  ProgressWatch watch({.timeout = absl::Seconds(60)}, kStart);
  EXPECT_EQ(watch.due(), At(60));
  watch.See(At(50));
  watch.See(At(52));
  EXPECT_EQ(watch.due(), At(112));
}

TEST(ProgressWatchTest, WaitsForEachStepThatIsNotReportedUntilAReportHasBeenTimed) {
  ProgressWatch watch({.timeout = absl::Seconds(60), .steps_per_report = 10}, kStart);
  EXPECT_EQ(watch.due(), At(600));
  watch.See(At(5));
  EXPECT_EQ(watch.due(), At(605));
  watch.See(At(10));
  EXPECT_EQ(watch.due(), At(70));
}

TEST(ProgressWatchTest, GivesASlowTrainerFiveTimesItsLongestGap) {
  ProgressWatch watch({.timeout = absl::Seconds(60)}, kStart);
  watch.See(At(1));
  watch.See(At(41));
  watch.See(At(42));
  EXPECT_EQ(watch.due(), At(242));
}

TEST(ProgressWatchTest, WithoutATimeoutIsNeverDue) {
  EXPECT_EQ(ProgressWatch({}, kStart).due(), absl::InfiniteFuture());
}

}  // namespace
}  // namespace normlab::agent
