#include "worker/agent/attempt_files.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "common/spec.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/agent/testing/temp_folder.h"

namespace normlab::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(FolderBelowTest, FindsAFolderAndAFolderInAFolder) {
  TempFolder root;
  fs::create_directories(root.path() / "a" / "b");
  EXPECT_EQ(FolderBelow(root.path(), "a").value(), root.path() / "a");
  EXPECT_EQ(FolderBelow(root.path(), "a/b").value(), root.path() / "a" / "b");
}

TEST(FolderBelowTest, RefusesWhatLeavesTheRoot) {
  TempFolder root, outside;
  fs::create_directories(root.path() / "a");
  fs::create_directory_symlink(outside.path(), root.path() / "link");
  const std::string nul("a\0b", 3);
  for (const std::string& path : {std::string(""), std::string("/etc"), std::string("../x"), std::string("a/../../etc"),
                                  std::string("link"), nul}) {
    EXPECT_TRUE(absl::IsInvalidArgument(FolderBelow(root.path(), path).status())) << path;
  }
}

TEST(FolderBelowTest, IsNotFooledByARootThatIsThePrefixOfAnotherName) {
  TempFolder parent;
  fs::create_directories(parent.path() / "data");
  fs::create_directories(parent.path() / "data-secret");
  fs::create_directory_symlink("../data-secret", parent.path() / "data" / "link");
  EXPECT_TRUE(absl::IsInvalidArgument(FolderBelow(parent.path() / "data", "link").status()));
}

TEST(FolderBelowTest, FollowsALinkThatStaysInside) {
  TempFolder root;
  fs::create_directories(root.path() / "v2");
  fs::create_directory_symlink("v2", root.path() / "latest");
  EXPECT_EQ(FolderBelow(root.path(), "latest").value(), root.path() / "v2");
}

TEST(FolderBelowTest, SaysHowToMakeAMissingDataset) {
  TempFolder root;
  const absl::Status status = FolderBelow(root.path(), "text").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("normlab data prepare"));
  std::ofstream(root.path() / "file") << "x";
  EXPECT_TRUE(absl::IsNotFound(FolderBelow(root.path(), "file").status()));
}

TEST(WorkFolderTest, IsLockedByOneAtATimeAndNamesTheOwner) {
  TempFolder work;
  {
    const auto lock = LockWorkFolder(work.path());
    ASSERT_TRUE(lock.ok()) << lock.status();
    const absl::Status second = LockWorkFolder(work.path()).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(second));
    EXPECT_THAT(std::string(second.message()), HasSubstr(std::to_string(getpid())));
  }
  EXPECT_TRUE(LockWorkFolder(work.path()).ok());
}

TEST(OpenFoldersTest, WantsADataRootAndMakesTheOthers) {
  TempFolder folder;
  const AgentFolders folders = {.work = folder.path() / "w" / "0",
                                .data_root = folder.path() / "data",
                                .checkpoint_root = folder.path() / "checkpoints"};
  EXPECT_TRUE(absl::IsNotFound(OpenFolders(folders).status()));
  fs::create_directory(folders.data_root);
  EXPECT_EQ(OpenFolders(folders).value().work, folders.work);
  EXPECT_TRUE(fs::is_directory(folders.checkpoint_root));
}

TEST(PrepareAttemptTest, WritesTheTrainersSpec) {
  TempFolder folder;
  const AgentFolders folders = {.work = folder.path() / "work",
                                .data_root = folder.path() / "data",
                                .checkpoint_root = folder.path() / "checkpoints"};
  fs::create_directories(folders.data_root / "text");
  const AttemptKey key = {.run = {.experiment = {.number = 1}, .index = 3}, .attempt = 2, .rank = 1};
  v1::StartAttempt start;
  start.mutable_spec()->mutable_data()->set_dataset("text");
  FillDefaults(start.mutable_spec());
  start.set_world_size(4);
  start.set_resume_from_attempt(2);
  start.set_rendezvous("127.0.0.1:4000");
  const auto prepared =
      PrepareAttempt(key, start, folders, {.trainer = "/bin/trainer", .bind_host = "127.0.0.1", .threads = 3});
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  const fs::path spec_path = folders.work / "exp-0001.03.2.1" / "spec.json";
  EXPECT_THAT(prepared->child.argv,
              testing::ElementsAre("/bin/trainer", "--spec", spec_path.string(), "--events", "-"));
  const auto spec = nlohmann::json::parse(ReadText(spec_path));
  EXPECT_EQ(spec["data_dir"], (folders.data_root / "text").string());
  EXPECT_EQ(spec["checkpoint_dir"], (folders.checkpoint_root / "exp-0001.03").string());
  EXPECT_EQ(spec["attempt"], 2);
  EXPECT_EQ(spec["rank"], 1);
  EXPECT_EQ(spec["world_size"], 4);
  EXPECT_EQ(spec["resume_from_attempt"], 2);
  EXPECT_EQ(spec["rendezvous"], "127.0.0.1:4000");
  EXPECT_EQ(spec["threads"], 3);
  EXPECT_EQ(spec["run"]["data"]["dataset"], "text");
}

TEST(PrepareAttemptTest, FirstWeightsLieBelowTheCheckpointRootOrTheDataRoot) {
  TempFolder folder;
  const AgentFolders folders = {.work = folder.path() / "work",
                                .data_root = folder.path() / "data",
                                .checkpoint_root = folder.path() / "checkpoints"};
  fs::create_directories(folders.data_root / "text");
  fs::create_directories(folders.data_root / "llama");
  fs::create_directories(folders.checkpoint_root / "exp-0001.00");
  const auto prepare = [&](const std::string& init_from) {
    v1::StartAttempt start;
    start.mutable_spec()->mutable_data()->set_dataset("text");
    start.mutable_spec()->mutable_train()->set_init_from(init_from);
    const AttemptKey key = {.run = {.experiment = {.number = 1}, .index = 3}, .attempt = 2, .rank = 1};
    return PrepareAttempt(key, start, folders, {.trainer = "/bin/trainer", .bind_host = "127.0.0.1", .threads = 3});
  };
  const auto init_dir = [&] {
    return nlohmann::json::parse(ReadText(folders.work / "exp-0001.03.2.1" / "spec.json"))["init_dir"];
  };
  ASSERT_TRUE(prepare("exp-0001.00").ok());
  EXPECT_EQ(init_dir(), (folders.checkpoint_root / "exp-0001.00").string());
  ASSERT_TRUE(prepare("llama").ok());
  EXPECT_EQ(init_dir(), (folders.data_root / "llama").string());
  ASSERT_TRUE(prepare("").ok());
  EXPECT_EQ(init_dir(), "");
  for (const char* bad : {"nowhere", "../data/llama"}) {
    const absl::Status status = prepare(bad).status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr(fmt::format("train.init_from '{}' is no folder below this worker's", bad)));
  }
}

TEST(PruneAttemptFoldersTest, KeepsTheLastOnesAndWhatIsNotAnAttempt) {
  TempFolder work;
  fs::create_directories(work.path() / "mine");
  for (int i = 1; i <= 4; ++i) {
    const fs::path folder = work.path() / ("exp-0001.0" + std::to_string(i) + ".1.0");
    fs::create_directories(folder);
    std::ofstream(folder / "spec.json") << "{}";
    fs::last_write_time(folder / "spec.json", fs::file_time_type() + std::chrono::hours(i));
  }
  PruneAttemptFolders(work.path(), 2);
  EXPECT_FALSE(fs::exists(work.path() / "exp-0001.02.1.0"));
  EXPECT_TRUE(fs::exists(work.path() / "exp-0001.03.1.0"));
  EXPECT_TRUE(fs::exists(work.path() / "exp-0001.04.1.0"));
  EXPECT_TRUE(fs::exists(work.path() / "mine"));
}

}  // namespace
}  // namespace normlab::agent
