#include "common/disk_metrics.h"

#include <gmock/gmock.h>

namespace normlab {
namespace {

TEST(DiskMetricsTest, SaysWhatIsLeftAndLeavesOutWhatDoesNotAnswer) {
  const auto families = DiskMetrics({{"work", "/"}, {"nowhere", "/no/such/folder"}}).Collect();
  ASSERT_EQ(families.size(), 2);
  EXPECT_EQ(families[0].name, "normlab_disk_free_bytes");
  EXPECT_EQ(families[1].name, "normlab_disk_size_bytes");
  ASSERT_EQ(families[0].metric.size(), 1);
  EXPECT_EQ(families[0].metric[0].label[0].value, "work");
  EXPECT_GT(families[1].metric[0].gauge.value, 0);
  EXPECT_LE(families[0].metric[0].gauge.value, families[1].metric[0].gauge.value);
}

}  // namespace
}  // namespace normlab
