#include "coordinator/store/rocksdb_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "coordinator/store/testing/sample_state.h"

namespace normlab::store {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class RocksDbStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        ::testing::TempDir() + "normlab-rocksdb-" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
  }

  /// Stores the sample state `num_commits` times, each with the next revision, and ends as kill -9 does.
  [[noreturn]] void CommitAndDie(int num_commits) {
    auto store = OpenRocksDbStore(folder_);
    engine::State state = MakeSampleState();
    state.revision = 0;
    for (int i = 0; i < num_commits; ++i) {
      ++state.revision;
      if (!(*store)->Commit(state, MakeSampleChanges()).ok()) std::abort();
    }
    raise(SIGKILL);
    std::abort();
  }

  /// The file that holds what was written since the last start.
  fs::path WriteAheadLog() const {
    fs::path newest;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().extension() == ".log" && entry.path() > newest) newest = entry.path();
    }
    return newest;
  }

  std::string folder_;
};

TEST_F(RocksDbStoreTest, MeasuresWhatItWrites) {
  auto store = OpenRocksDbStore(folder_);
  ASSERT_TRUE(store.ok()) << store.status();
  const Statistics before = *(*store)->Measure();
  ASSERT_TRUE((*store)->Commit(MakeSampleState(), MakeSampleChanges()).ok());
  const Statistics after = *(*store)->Measure();
  EXPECT_GT(after.wal_bytes_written, before.wal_bytes_written);
  EXPECT_GE(after.wal_bytes, after.wal_bytes_written);
  EXPECT_GT(after.memtable_bytes, 0u);  // In blocks: small writes do not show.
  EXPECT_FALSE(after.is_write_stopped);
  EXPECT_EQ(after.background_errors, 0u);
}

TEST_F(RocksDbStoreTest, KeepsWhatWasCommittedThroughAKill) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(CommitAndDie(3), ::testing::KilledBySignal(SIGKILL), "");
  auto store = OpenRocksDbStore(folder_);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto state = (*store)->Load();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->revision, 3);
  EXPECT_EQ(state->runs.size(), 2u);
}

TEST_F(RocksDbStoreTest, ForgivesARecordThatACrashCutOff) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(CommitAndDie(3), ::testing::KilledBySignal(SIGKILL), "");
  fs::resize_file(WriteAheadLog(), fs::file_size(WriteAheadLog()) - 10);
  auto store = OpenRocksDbStore(folder_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->Load()->revision, 2);
}

TEST_F(RocksDbStoreTest, RefusesDamageInTheMiddleAndNamesTheFile) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(CommitAndDie(3), ::testing::KilledBySignal(SIGKILL), "");
  {
    std::fstream log(WriteAheadLog(), std::ios::in | std::ios::out | std::ios::binary);
    log.seekp(static_cast<std::streamoff>(fs::file_size(WriteAheadLog()) / 2));
    log.write("damaged", 7);
  }
  const auto store = OpenRocksDbStore(folder_);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss) << store.status();
  EXPECT_THAT(std::string(store.status().message()), HasSubstr(folder_));
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("restore it from a backup"));
}

TEST_F(RocksDbStoreTest, IsOpenOnlyOnce) {
  const auto store = OpenRocksDbStore(folder_);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto second = OpenRocksDbStore(folder_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(folder_ + " is in use: another coordinator runs on it"));
}

TEST_F(RocksDbStoreTest, DoesNotBeginAnewOverTheRemainsOfADatabase) {
  ASSERT_TRUE(OpenRocksDbStore(folder_).ok());
  fs::remove(fs::path(folder_) / "CURRENT");
  EXPECT_EQ(OpenRocksDbStore(folder_).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace normlab::store
