#include "worker/agent/host_limits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <thread>

namespace normlab::agent {
namespace {

constexpr std::int64_t kMebibyte = 1 << 20;

class HostLimitsTest : public ::testing::Test {
 protected:
  HostLimitsTest()
      : root_(std::filesystem::path(::testing::TempDir()) /
              (std::string("host_limits_") + ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(root_);
    Write("proc/self/cgroup", "12:cpuset:/old\n0::/kubepods/pod7/worker\n");
  }
  ~HostLimitsTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

  const std::filesystem::path root_;
  const HostLimits host_ = FindHostLimits("/nowhere");
};

TEST_F(HostLimitsTest, WithoutGroupsAreThoseOfTheHost) {
  EXPECT_GT(host_.memory_bytes, 64 * kMebibyte);
  EXPECT_EQ(host_.threads, std::max<int>(1, std::thread::hardware_concurrency()));
}

TEST_F(HostLimitsTest, AContainerThatSeesItsGroupAsTheRootHasItsLimits) {
  Write("sys/fs/cgroup/memory.max", "67108864\n");
  Write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(FindHostLimits(root_).memory_bytes, 64 * kMebibyte);
  EXPECT_EQ(FindHostLimits(root_).threads, 1) << "half a core";
}

TEST_F(HostLimitsTest, TheSmallestOfTheGroupAndThoseAboveItCounts) {
  Write("sys/fs/cgroup/kubepods/pod7/worker/memory.max", "max\n");
  Write("sys/fs/cgroup/kubepods/pod7/worker/cpu.max", "max 100000\n");
  EXPECT_EQ(FindHostLimits(root_).memory_bytes, host_.memory_bytes);
  EXPECT_EQ(FindHostLimits(root_).threads, host_.threads);
  Write("sys/fs/cgroup/kubepods/pod7/memory.max", "33554432\n");
  Write("sys/fs/cgroup/kubepods/cpu.max", "100000 100000\n");
  EXPECT_EQ(FindHostLimits(root_).memory_bytes, 32 * kMebibyte);
  EXPECT_EQ(FindHostLimits(root_).threads, 1);
}

TEST_F(HostLimitsTest, MoreThanTheHostHasAndNonsenseAreNoLimits) {
  Write("sys/fs/cgroup/memory.max", "9000000000000000\n");
  Write("sys/fs/cgroup/cpu.max", "lots\n");
  EXPECT_EQ(FindHostLimits(root_).memory_bytes, host_.memory_bytes);
  EXPECT_EQ(FindHostLimits(root_).threads, host_.threads);
}

}  // namespace
}  // namespace normlab::agent
