#include "coordinator/store/backup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "coordinator/store/keys.h"
#include "coordinator/store/rocksdb_store.h"
#include "coordinator/store/testing/sample_state.h"

namespace normlab::store {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

class BackupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(data_ / kTokensFile) << "hashes";
    store_ = *OpenRocksDbStore((data_ / "db").string());
    Commit();
  }
  void TearDown() override {
    store_.reset();
    fs::remove_all(top_);
  }

  static fs::path NewFolder() {
    const fs::path top =
        fs::path(::testing::TempDir()) /
        ("normlab-backup-" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(top);
    fs::create_directories(top / "data");
    return top;
  }

  void Commit() {
    ++state_.revision;
    const absl::Status status = store_->Commit(state_, MakeSampleChanges());
    ASSERT_TRUE(status.ok()) << status;
  }

  absl::StatusOr<v1::BackupManifest> Create(int seconds = 0) {
    return backups_.Create(*store_, kNow + absl::Seconds(seconds), {});
  }

  absl::StatusOr<Restored> Restore(const std::string& name, const std::string& to = "restored",
                                   absl::Duration after = absl::Hours(1)) {
    return RestoreBackup(backups_.PathOf(name), top_ / to, kNow + after, {});
  }

  engine::State Load(const std::string& data) {
    const auto store = OpenRocksDbStore((top_ / data / "db").string());
    EXPECT_TRUE(store.ok()) << store.status();
    return *(*store)->Load();
  }

  const fs::path top_ = NewFolder();
  const fs::path data_ = top_ / "data";
  std::unique_ptr<Store> store_;
  engine::State state_ = MakeSampleState();
  Backups backups_{top_ / "backups", data_, 2};
};

TEST_F(BackupTest, RestoresWhatWasThere) {
  const auto made = Create();
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->name(), "backup-20270115T080000.000Z");
  EXPECT_EQ(made->revision(), 10);
  EXPECT_EQ(made->num_experiments(), 1);
  EXPECT_EQ(made->num_runs(), 2);
  Commit();
  const auto restored = Restore(made->name());
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_TRUE(restored->has_tokens);
  EXPECT_TRUE(fs::exists(top_ / "restored" / kTokensFile));
  const engine::State state = Load("restored");
  EXPECT_EQ(state.runs.at(kSampleRun).attempt, 5);
  EXPECT_EQ(state.runs.size(), 2u);
}

TEST_F(BackupTest, GivesOutNoNumberAgainThatTheLostStoreMayHaveGivenOut) {
  const std::string name = Create()->name();
  const auto first = Restore(name, "first");
  const auto second = Restore(name, "second", absl::Hours(2));
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_GT(first->first_attempt, 1'000'000);
  EXPECT_EQ(second->first_attempt, first->first_attempt + 3600);
  EXPECT_EQ(second->first_experiment, first->first_experiment + 3600);
  const engine::State state = Load("first");
  EXPECT_EQ(state.attempt_floor, first->first_attempt);
  EXPECT_EQ(state.last_experiment_number + 1, first->first_experiment);
  EXPECT_GT(state.revision, 1'000'000'000'000);
  EXPECT_EQ(engine::NextAttempt(state, state.runs.at(kSampleRun)), first->first_attempt);
}

TEST_F(BackupTest, HoldsEverythingThatWasAcknowledgedBeforeItBegan) {
  std::atomic<bool> is_over = false;
  std::atomic<int64_t> acknowledged = state_.revision;
  std::thread load([&] {
    while (!is_over) {
      Commit();
      acknowledged = state_.revision;
    }
  });
  for (int i = 0; i < 5; ++i) {
    const int64_t before = acknowledged;
    const auto made = Create(i);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_GE(made->revision(), before);
    const auto checked = backups_.Verify(made->name(), {});
    EXPECT_TRUE(checked.ok()) << checked.status();
  }
  is_over = true;
  load.join();
}

TEST_F(BackupTest, KeepsTheNewest) {
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Create(i).ok());
  const auto all = backups_.List();
  ASSERT_THAT(*all, SizeIs(2));
  EXPECT_EQ((*all)[0].name(), "backup-20270115T080003.000Z");
  EXPECT_EQ((*all)[1].name(), "backup-20270115T080002.000Z");
  EXPECT_EQ(backups_.Verify("backup-20270115T080000.000Z", {}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(BackupTest, LeavesNothingWhenItIsAskedToEnd) {
  const auto made = backups_.Create(*store_, kNow, [](uint64_t, uint64_t) { return false; });
  EXPECT_EQ(made.status().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(*backups_.List(), IsEmpty());
  EXPECT_TRUE(fs::is_empty(top_ / "backups"));
  EXPECT_FALSE(fs::exists(data_ / "db.checkpoint"));
}

TEST_F(BackupTest, TakesNothingForABackupThatWasCutOff) {
  fs::create_directories(top_ / "backups" / ".partial-backup-1" / "db");
  fs::create_directories(top_ / "backups" / "backup-1" / "db");
  EXPECT_THAT(*backups_.List(), IsEmpty());
  EXPECT_EQ(Restore("backup-1").status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Create().ok());
  EXPECT_FALSE(fs::exists(top_ / "backups" / ".partial-backup-1"));
}

TEST_F(BackupTest, AManifestOrARootThatCannotBeReadIsSaidAndEndsNothing) {
  const auto made = *Create();
  fs::create_directories(backups_.PathOf("backup-unreadable") / "backup.json");
  EXPECT_THAT(*backups_.List(), SizeIs(1));
  const auto unreadable = VerifyBackup(backups_.PathOf("backup-unreadable"), {});
  EXPECT_TRUE(absl::IsFailedPrecondition(unreadable.status()));
  EXPECT_THAT(std::string(unreadable.status().message()), HasSubstr("backup-unreadable"));
  std::ofstream(top_ / "file") << "no folder";
  EXPECT_FALSE(Backups(top_ / "file", data_, 3).List().ok()) << "not the same as no backups";
}

TEST_F(BackupTest, IsRestoredOverNoDatabase) {
  const std::string name = Create()->name();
  const auto in_use = RestoreBackup(backups_.PathOf(name), data_, kNow, {});
  EXPECT_EQ(in_use.status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Restore(name).ok());
  const auto stopped = Restore(name);
  EXPECT_EQ(stopped.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(stopped.status().message()), HasSubstr("move it away first"));
}

TEST_F(BackupTest, NamesADamagedMissingOrForeignFileAndRestoresNothing) {
  const std::string name = Create()->name();
  const fs::path folder = backups_.PathOf(name);
  const auto expect_refusal = [&](const std::string& words) {
    for (const absl::Status& status : {VerifyBackup(folder, {}).status(), Restore(name).status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(words));
    }
    EXPECT_FALSE(fs::exists(top_ / "restored" / "db"));
  };
  std::ofstream(folder / "db" / "000099.log") << "foreign";
  expect_refusal("000099.log does not belong to the backup");
  fs::remove(folder / "db" / "000099.log");
  std::ofstream(folder / kTokensFile) << "others";
  expect_refusal("tokens.json has SHA-256");
  fs::remove(folder / kTokensFile);
  expect_refusal("tokens.json is missing");
}

}  // namespace
}  // namespace normlab::store
