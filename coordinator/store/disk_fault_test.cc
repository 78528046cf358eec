#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "coordinator/store/rocksdb_store.h"
#include "coordinator/store/testing/faulty_disk.h"
#include "coordinator/store/testing/sample_state.h"

// A real RocksDB on a disk that fails. What was acknowledged is there after a restart, or an error says what is not.
namespace normlab::store {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;

class DiskFaultTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = ::testing::TempDir() + "normlab-disk-" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
    fs::create_directories(root_);
    folder_ = root_ + "/db";
  }
  void TearDown() override { fs::remove_all(root_); }

  absl::StatusOr<std::unique_ptr<Store>> Open() { return OpenRocksDbStore(folder_, {.env = disk_.env()}); }

  /// The sample state once more, with the next revision and an event; true if it was acknowledged.
  bool Commit(Store& store) {
    ++state_.revision;
    engine::Changes changes = MakeSampleChanges();
    changes.events = {{.run = kSampleRun, .time = kSampleTime, .actor = "user:ada", .reason = "again"}};
    last_ = store.Commit(state_, changes);
    if (last_.ok()) acknowledged_ = state_.revision;
    return last_.ok();
  }

  void CommitMany(Store& store, int count) {
    for (int i = 0; i < count; ++i) ASSERT_TRUE(Commit(store)) << last_;
  }

  /// A new process finds everything that was acknowledged, and goes on.
  void ExpectACleanRestart() {
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    const auto loaded = (*store)->Load();
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_GE(loaded->revision, acknowledged_);
    EXPECT_EQ(loaded->runs.size(), 2u);
    EXPECT_GE((*store)->Events(kSampleRun)->size(), static_cast<size_t>(acknowledged_ - 9));
    state_.revision = loaded->revision;
    EXPECT_TRUE(Commit(**store)) << last_;
  }

  std::vector<fs::path> Files(const std::string& part) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      if (name.find(part) != std::string::npos && fs::file_size(entry.path()) > 0) found.push_back(entry.path());
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  /// The image that a kill leaves: half in files, half in the log.
  void MakeImage() {
    state_ = MakeSampleState();
    {
      auto store = Open();
      ASSERT_TRUE(store.ok()) << store.status();
      CommitMany(**store, 20);
    }
    {
      auto store = Open();  // Writes the log of the one before into files.
      ASSERT_TRUE(store.ok()) << store.status();
      CommitMany(**store, 20);
    }
  }

  static void Flip(const fs::path& path, uint64_t offset, int bit) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const int byte = file.get();
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 1 << bit));
  }

  /// Everything that the database holds, or the error that reading it gives.
  absl::StatusOr<std::string> ReadAll() {
    auto backend = OpenRocksDbBackend(folder_);
    if (!backend.ok()) return backend.status();
    std::string all;
    for (int table = 0; table < kNumTables; ++table) {
      const absl::Status read =
          (*backend)->Scan(static_cast<Table>(table), "", "", [&](std::string_view key, std::string_view value) {
            all.append(key).append("=").append(value).append("\n");
            return true;
          });
      if (!read.ok()) return read;
    }
    return all;
  }

  FaultyDisk disk_;
  std::string root_, folder_;
  engine::State state_ = MakeSampleState();
  int64_t acknowledged_ = 0;
  absl::Status last_;
};

TEST_F(DiskFaultTest, AFailedSyncOfTheLogEndsAllWritesAndLosesNothingAcknowledged) {
  auto store = Open();
  ASSERT_TRUE(store.ok()) << store.status();
  CommitMany(**store, 5);
  disk_.FailNextSync(".log");
  EXPECT_FALSE(Commit(**store));
  EXPECT_THAT(std::string(last_.message()), HasSubstr("fdatasync"));
  EXPECT_THAT(std::string(last_.message()), HasSubstr(".log"));
  EXPECT_FALSE(Commit(**store)) << "the disk would say that all is well again";
  EXPECT_THAT(std::string(last_.message()), HasSubstr("an earlier write failed"));
  store->reset();
  disk_.DropUnsynced();
  ExpectACleanRestart();
}

TEST_F(DiskFaultTest, AFailedSyncOfATableFileFailsTheStartAndTheNextStartIsClean) {
  {
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    CommitMany(**store, 5);
  }
  disk_.DropUnsynced();
  disk_.FailNextSync(".sst");  // Of the file that takes over what the log holds.
  const auto failed = Open();
  ASSERT_FALSE(failed.ok());
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr(".sst"));
  disk_.DropUnsynced();
  ExpectACleanRestart();
}

TEST_F(DiskFaultTest, AFullDiskEndsAllWritesAndLosesNothingAcknowledgedWhereverItCutsOff) {
  for (int64_t free_bytes = 1; free_bytes < 4000; free_bytes += 397) {
    fs::remove_all(folder_);
    state_ = MakeSampleState();
    acknowledged_ = 0;
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    CommitMany(**store, 2);
    disk_.SetFreeBytes(free_bytes);
    for (int i = 0; i < 10 && Commit(**store); ++i) {
    }
    EXPECT_EQ(last_.code(), absl::StatusCode::kResourceExhausted) << last_;
    EXPECT_THAT(std::string(last_.message()), HasSubstr("the disk is full"));
    disk_.SetFreeBytes(1 << 30);
    EXPECT_FALSE(Commit(**store)) << "room alone does not mend a log that was cut off";
    store->reset();
    ExpectACleanRestart();
  }
}

TEST_F(DiskFaultTest, ALogThatWasCutOffLosesAtMostTheRecordsBehindTheCut) {
  MakeImage();
  const fs::path log = Files(".log").back();
  const std::string image = root_ + "/image";
  fs::copy(folder_, image, fs::copy_options::recursive);
  const uint64_t size = fs::file_size(log);
  int64_t before = acknowledged_;
  for (uint64_t cut = 0; cut < size; cut += size / 12 + 1) {
    fs::remove_all(folder_);
    fs::copy(image, folder_, fs::copy_options::recursive);
    fs::resize_file(log, size - cut);
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    const int64_t revision = (*store)->Load()->revision;
    EXPECT_LE(revision, before);
    before = revision;
  }
  EXPECT_GE(before, 29) << "what lies in files is still there";
}

TEST_F(DiskFaultTest, AFlippedBitIsFoundOrChangesNothing) {
  MakeImage();
  const auto whole = ReadAll();
  ASSERT_TRUE(whole.ok()) << whole.status();
  fs::remove_all(folder_);
  MakeImage();
  const std::string image = root_ + "/image";
  fs::copy(folder_, image, fs::copy_options::recursive);
  std::mt19937_64 chance(5);
  int num_found = 0, num_flips = 0;
  for (const char* kind : {".log", ".sst", "MANIFEST", "CURRENT"}) {
    for (int i = 0; i < 15; ++i) {
      fs::remove_all(folder_);
      fs::copy(image, folder_, fs::copy_options::recursive);
      const std::vector<fs::path> files = Files(kind);
      ASSERT_FALSE(files.empty()) << kind;
      const fs::path& path = files[chance() % files.size()];
      const uint64_t offset = chance() % fs::file_size(path);
      const int bit = static_cast<int>(chance() % 8);
      Flip(path, offset, bit);
      const auto read = ReadAll();
      const std::string where = path.filename().string() + " byte " + std::to_string(offset);
      ++num_flips;
      if (read.ok()) {
        EXPECT_EQ(*read, *whole) << where;
        continue;
      }
      ++num_found;
      const std::string message(read.status().message());
      EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss) << where << ": " << message;
      EXPECT_THAT(message, HasSubstr(path.filename().string())) << where;
      EXPECT_THAT(message, HasSubstr("restore --from")) << where;
    }
  }
  EXPECT_GT(num_found, num_flips / 2);
}

TEST_F(DiskFaultTest, AMissingFileIsNamed) {
  for (const char* kind : {".sst", "MANIFEST", "CURRENT"}) {
    fs::remove_all(folder_);
    MakeImage();
    const fs::path path = Files(kind).front();
    fs::remove(path);
    const auto read = ReadAll();
    EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss) << kind << read.status();
    EXPECT_THAT(std::string(read.status().message()), AnyOf(HasSubstr(path.filename().string()), HasSubstr("CURRENT")));
  }
}

}  // namespace
}  // namespace normlab::store
