#include "worker/trainer/train/checkpoint.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "worker/trainer/spec.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

struct Recorder : EventSink {
  void Emit(const TrainerEvent& event) override { warnings.push_back(std::get<LogLine>(event).text); }
  std::vector<std::string> warnings;
};

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("checkpoint_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  CheckpointFolder Open(int attempt, int resume_from_attempt = 1, int kept = 2) {
    return CheckpointFolder(
        {.path = folder_, .attempt = attempt, .resume_from_attempt = resume_from_attempt, .kept = kept});
  }
  CheckpointContent Content(int64_t step) {
    return {.step = step,
            .tokens = step * 100,
            .clipped_updates = step / 2,
            .updates_above_bound = 1,
            .fingerprint = {{"model.hidden", "16"}, {"seed", "1"}},
            .model = {{"a.weight", {2, 2}, weights_}, {"b.weight", {4}, weights_}},
            .optimizer = {{"exp_avg.a.weight", {2, 2}, moments_}}};
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().filename());
    return names;
  }
  std::string Newest(CheckpointFolder& folder) {
    const auto found = folder.FindNewest(events_);
    return found ? found->name : "none";
  }
  void FlipBit(const fs::path& file, int64_t offset) {
    std::fstream stream(folder_ / file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekg(offset);
    const char byte = static_cast<char>(stream.get() ^ 1);
    stream.seekp(offset);
    stream.put(byte);
  }

  fs::path folder_;
  Recorder events_;
  std::vector<float> weights_ = {1, 2, 3, 4};
  std::vector<float> moments_ = {5, 6, 7, 8};
};

TEST_F(CheckpointTest, ComesBackAsItWasWritten) {
  CheckpointFolder folder = Open(1);
  EXPECT_EQ(Newest(folder), "none");
  const CheckpointSaved saved = folder.Write(Content(7));
  EXPECT_EQ(saved.name, "step-00000007.attempt-001");
  const auto found = folder.FindNewest(events_);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 7);
  EXPECT_EQ(found->tokens, 700);
  EXPECT_EQ(found->clipped_updates, 3);
  EXPECT_EQ(found->updates_above_bound, 1);
  EXPECT_EQ(found->fingerprint, Content(7).fingerprint);
  std::vector<float> values(4);
  SafetensorsReader(found->model_file).Read("b.weight", {4}, values);
  EXPECT_EQ(values, weights_);
  SafetensorsReader(found->optimizer_file).Read("exp_avg.a.weight", {2, 2}, values);
  EXPECT_EQ(values, moments_);
  EXPECT_THAT(events_.warnings, IsEmpty());
}

TEST_F(CheckpointTest, KeepsTheNewestOnly) {
  CheckpointFolder folder = Open(1);
  for (int64_t step : {1, 2, 3, 4}) folder.Write(Content(step));
  EXPECT_THAT(Files(), UnorderedElementsAre("step-00000003.attempt-001", "step-00000004.attempt-001"));
}

TEST_F(CheckpointTest, KeepsEveryNthForEverBesideTheNewest) {
  CheckpointFolder folder({.path = folder_, .attempt = 1, .resume_from_attempt = 1, .kept = 2, .keep_every_steps = 3});
  for (int64_t step = 1; step <= 8; ++step) folder.Write(Content(step));
  EXPECT_THAT(Files(), UnorderedElementsAre("step-00000003.attempt-001", "step-00000006.attempt-001",
                                            "step-00000007.attempt-001", "step-00000008.attempt-001"));
}

TEST_F(CheckpointTest, AnyFlippedByteMakesTheOneBeforeBeUsed) {
  for (const std::string file : {"model.safetensors", "optimizer.safetensors", "state.json"}) {
    fs::remove_all(folder_);
    CheckpointFolder folder = Open(1);
    folder.Write(Content(1));
    folder.Write(Content(2));
    const auto size = static_cast<int64_t>(fs::file_size(folder_ / "step-00000002.attempt-001" / file));
    for (int64_t offset = 0; offset < size; offset += 7) {
      events_.warnings.clear();
      FlipBit("step-00000002.attempt-001/" + file, offset);
      const auto found = folder.FindNewest(events_);
      // A flip in state.json's indentation changes nothing that is read.
      if (file == "state.json" && found && found->step == 2) {
        EXPECT_EQ(found->tokens, 200);
      } else {
        ASSERT_TRUE(found);
        EXPECT_EQ(found->step, 1) << file << " offset " << offset;
        EXPECT_THAT(events_.warnings, ElementsAre(HasSubstr("step-00000002.attempt-001/" + file)));
      }
      FlipBit("step-00000002.attempt-001/" + file, offset);
    }
  }
}

TEST_F(CheckpointTest, ATornFileIsNamedWithItsSizes) {
  CheckpointFolder folder = Open(1);
  folder.Write(Content(1));
  folder.Write(Content(2));
  const fs::path torn = folder_ / "step-00000002.attempt-001" / "model.safetensors";
  const auto bytes = fs::file_size(torn);
  fs::resize_file(torn, bytes - 1);
  EXPECT_EQ(Newest(folder), "step-00000001.attempt-001");
  EXPECT_THAT(
      events_.warnings,
      ElementsAre(AllOf(HasSubstr("checkpoint step-00000002.attempt-001 is damaged, the one before it is used"),
                        HasSubstr(fmt::format("model.safetensors has {} bytes, {} were written", bytes - 1, bytes)))));
  fs::remove(torn);
  EXPECT_EQ(Newest(folder), "step-00000001.attempt-001");
}

TEST_F(CheckpointTest, ADamagedOneDoesNotPushOutAGoodOne) {
  CheckpointFolder folder = Open(1);
  folder.Write(Content(1));
  folder.Write(Content(2));
  FlipBit("step-00000002.attempt-001/model.safetensors", 100);
  CheckpointFolder next = Open(2);
  EXPECT_EQ(Newest(next), "step-00000001.attempt-001");
  next.Write(Content(2));
  EXPECT_THAT(Files(), UnorderedElementsAre("step-00000001.attempt-001", "step-00000002.attempt-002"));
}

TEST_F(CheckpointTest, TheSameStepMayBeWrittenAgain) {
  CheckpointFolder folder = Open(1);
  folder.Write(Content(1));
  FlipBit("step-00000001.attempt-001/model.safetensors", 100);
  EXPECT_EQ(Newest(folder), "none");
  folder.Write(Content(1));
  EXPECT_EQ(Newest(folder), "step-00000001.attempt-001");
}

TEST_F(CheckpointTest, EarlierAttemptsThanAskedForAreNeitherUsedNorRemoved) {
  CheckpointFolder first = Open(1);
  for (int64_t step : {8, 9}) first.Write(Content(step));
  CheckpointFolder from_scratch = Open(2, /*resume_from_attempt=*/2);
  EXPECT_EQ(Newest(from_scratch), "none");
  for (int64_t step : {1, 2, 3}) from_scratch.Write(Content(step));
  EXPECT_EQ(Newest(from_scratch), "step-00000003.attempt-002");
  EXPECT_THAT(Files(), UnorderedElementsAre("step-00000008.attempt-001", "step-00000009.attempt-001",
                                            "step-00000002.attempt-002", "step-00000003.attempt-002"));
}

TEST_F(CheckpointTest, AnAttemptThatIsLostButLivesRemovesNothingOfALaterOne) {
  CheckpointFolder lost = Open(1);
  CheckpointFolder next = Open(2);
  for (int64_t step : {1, 2}) next.Write(Content(step));
  for (int64_t step : {3, 4, 5}) lost.Write(Content(step));
  EXPECT_THAT(Files(), ::testing::IsSupersetOf({"step-00000001.attempt-002", "step-00000002.attempt-002"}));
}

TEST_F(CheckpointTest, LeftoversOfInterruptedWritesAreRemovedAtStart) {
  fs::create_directories(folder_ / ".tmp-step-00000005.attempt-001");
  fs::create_directories(folder_ / ".tmp-step-00000005.attempt-003");
  fs::create_directories(folder_ / "notes");
  Open(2);
  EXPECT_THAT(Files(), UnorderedElementsAre(".tmp-step-00000005.attempt-003", "notes"));
}

TEST_F(CheckpointTest, AFailedWriteNamesPathAndBytesAndLeavesTheEarlierOne) {
  CheckpointFolder folder = Open(1);
  folder.Write(Content(1));
  // A limit on file size stands for the full disk: write(2) fails half way in both.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  getrlimit(RLIMIT_FSIZE, &old_limit);
  const rlimit small = {.rlim_cur = 150, .rlim_max = old_limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  std::string message;
  try {
    folder.Write(Content(2));
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &old_limit);
  EXPECT_THAT(message, AllOf(HasSubstr("checkpoint step-00000002.attempt-001 (48 bytes of arrays) was not saved, "
                                       "earlier ones are intact: cannot write "),
                             HasSubstr(".tmp-step-00000002.attempt-001/model.safetensors"),
                             HasSubstr(" bytes written, "), HasSubstr("File too large")));
  EXPECT_THAT(Files(), ElementsAre("step-00000001.attempt-001"));
  EXPECT_EQ(Newest(folder), "step-00000001.attempt-001");
}

TEST_F(CheckpointTest, AnotherSpecIsRefusedByTheFirstFieldThatDiffers) {
  const VerifiedCheckpoint checkpoint{.name = "c", .step = 5, .fingerprint = {{"model.hidden", "16"}, {"seed", "1"}}};
  EXPECT_NO_THROW(RequireSameFingerprint(checkpoint, {{"model.hidden", "16"}, {"seed", "1"}}));
  try {
    RequireSameFingerprint(checkpoint, {{"model.hidden", "16"}, {"seed", "2"}});
    FAIL();
  } catch (const PermanentError& error) {
    EXPECT_STREQ(error.what(),
                 "checkpoint c (step 5) was made with seed = 1, the spec asks for 2: requeue with "
                 "--from-scratch, or put the old value back");
  }
  EXPECT_THROW(RequireSameFingerprint(checkpoint, {{"model.hidden", "16"}}), PermanentError);
}

TEST(CheckpointNameTest, ReadsOnlyWhatItWrites) {
  EXPECT_EQ((CheckpointName{100, 1}).ToText(), "step-00000100.attempt-001");
  EXPECT_EQ(CheckpointName::Parse("step-123456789.attempt-1000"), (CheckpointName{123456789, 1000}));
  for (const char* other :
       {"", "step-1.attempt-1", "step-00000100.attempt-001x", "step-00000100", ".tmp", "step-.attempt-"}) {
    EXPECT_FALSE(CheckpointName::Parse(other)) << other;
  }
}

TEST(SafetensorsTest, RefusesAHeaderThatPointsOutsideTheFile) {
  const fs::path path = fs::path(::testing::TempDir()) / "outside.safetensors";
  const std::string header = R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}      )";
  const uint64_t header_bytes = header.size();
  std::ofstream(path, std::ios::binary) << std::string(reinterpret_cast<const char*>(&header_bytes), 8) << header
                                        << "12";
  EXPECT_THROW(SafetensorsReader{path}, std::runtime_error);
  std::ofstream(path, std::ios::binary) << "abc";
  EXPECT_THROW(SafetensorsReader{path}, std::runtime_error);
  std::ofstream(path, std::ios::binary) << std::string(16, '\xff');
  EXPECT_THROW(SafetensorsReader{path}, std::runtime_error);
  fs::remove(path);
}

TEST_F(CheckpointTest, KeepsTheRunsSpecAndOneCheckpointCanBeOpenedByItself) {
  CheckpointContent content = Content(7);
  content.run_json = R"({"seed":"1","norm":{"scheme":"lns"}})";
  Open(1).Write(content);
  const VerifiedCheckpoint checkpoint = VerifyCheckpoint(folder_ / "step-00000007.attempt-001");
  EXPECT_EQ(checkpoint.step, 7);
  EXPECT_EQ(nlohmann::json::parse(checkpoint.run_json), nlohmann::json::parse(content.run_json));
  FlipBit("step-00000007.attempt-001/model.safetensors", 20);
  EXPECT_THAT([&] { VerifyCheckpoint(folder_ / "step-00000007.attempt-001"); },
              ::testing::ThrowsMessage<std::runtime_error>(HasSubstr("model.safetensors was changed")));
}

TEST_F(CheckpointTest, HalfPrecisionArraysOfOthersAreReadAsFloat32) {
  fs::create_directories(folder_);
  const std::string header =
      R"({"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"h":{"dtype":"F16","shape":[4],"data_offsets":[4,12]},)"
      R"("i":{"dtype":"I64","shape":[1],"data_offsets":[12,20]}})";
  const uint64_t header_bytes = header.size();
  const uint16_t halves[] = {0x3f80, 0xc020, 0x3c00, 0xc248, 0x0001, 0x7bff};
  std::ofstream file(folder_ / "others.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&header_bytes), 8);
  file << header;
  file.write(reinterpret_cast<const char*>(halves), sizeof(halves));
  file << "12345678" << std::flush;
  const SafetensorsReader reader(folder_ / "others.safetensors");
  std::vector<float> b(2), h(4);
  reader.Read("b", {2}, b);
  reader.Read("h", {4}, h);
  EXPECT_THAT(b, ElementsAre(1.0f, -2.5f));
  EXPECT_THAT(h, ElementsAre(1.0f, -3.140625f, std::ldexp(1.0f, -24), 65504.0f));
  EXPECT_THAT(reader.Names(), ElementsAre("b", "h"));
}

}  // namespace
}  // namespace normlab::trainer
