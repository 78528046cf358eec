#include "worker/trainer/train/checkpoint_writer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <stdexcept>

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CheckpointWriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("checkpoint_writer_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  CheckpointFolder Folder() const {
    return CheckpointFolder({.path = folder_, .attempt = 1, .resume_from_attempt = 1, .kept = 2});
  }
  CheckpointContent Content(int64_t step) const { return {.step = step, .model = {{"a.weight", {4}, weights_}}}; }

  fs::path folder_;
  std::vector<float> weights_ = {1, 2, 3, 4};
};

TEST_F(CheckpointWriterTest, SaysWhatIsDurableOnce) {
  CheckpointWriter writer(Folder());
  EXPECT_FALSE(writer.Poll());
  EXPECT_FALSE(writer.Wait()) << "nothing was started";
  writer.Start(Content(3));
  const auto outcome = writer.Wait();
  ASSERT_TRUE(outcome && outcome->saved);
  EXPECT_EQ(outcome->step, 3);
  EXPECT_EQ(outcome->saved->name, "step-00000003.attempt-001");
  EXPECT_GT(outcome->saved->write_seconds, 0);
  EXPECT_EQ(VerifyCheckpoint(folder_ / outcome->saved->name).step, 3);
  EXPECT_FALSE(writer.Poll());
  writer.Start(Content(4));
  EXPECT_TRUE(writer.Wait());
}

TEST_F(CheckpointWriterTest, AFailedWriteIsSaidAndTheNextOneIsTried) {
  CheckpointWriter writer(Folder());
  writer.Start(Content(1));
  writer.Wait();
  // A file where the temporary folder should be, in a folder that cannot be cleared: its parent is no folder at all.
  const fs::path moved = folder_.string() + ".moved";
  fs::rename(folder_, moved);
  std::ofstream(folder_) << "in the way";
  writer.Start(Content(2));
  const auto failed = writer.Wait();
  ASSERT_TRUE(failed);
  EXPECT_FALSE(failed->saved);
  EXPECT_THAT(failed->error, HasSubstr("checkpoint step-00000002.attempt-001 (16 bytes of arrays) was not saved, "
                                       "earlier ones are intact: "));
  fs::remove(folder_);
  fs::rename(moved, folder_);
  writer.Start(Content(3));
  EXPECT_TRUE(writer.Wait()->saved);
}

TEST_F(CheckpointWriterTest, NeverWritesTwoAtOnce) {
  CheckpointWriter writer(Folder());
  writer.Start(Content(1));
  EXPECT_THROW(writer.Start(Content(2)), std::logic_error) << "the first one's outcome was not taken";
}

TEST_F(CheckpointWriterTest, ItsEndWaitsForWhatIsBeingWritten) {
  {
    CheckpointWriter writer(Folder());
    writer.Start(Content(5));
  }
  EXPECT_EQ(VerifyCheckpoint(folder_ / "step-00000005.attempt-001").step, 5);
}

}  // namespace
}  // namespace normlab::trainer
