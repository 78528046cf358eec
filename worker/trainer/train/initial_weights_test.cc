#include "worker/trainer/train/initial_weights.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "worker/trainer/spec.h"
#include "worker/trainer/train/checkpoint.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Recorder : EventSink {
  void Emit(const TrainerEvent& event) override { warnings.push_back(std::get<LogLine>(event).text); }
  std::vector<std::string> warnings;
};

class InitialWeightsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("initial_weights_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<float> Read(const std::string& name) {
    std::vector<float> values(4);
    InitialWeights weights(folder_, events_);
    weights.Read(name, {2, 2}, values);
    return values;
  }
  std::string ErrorOf(const std::string& name) {
    try {
      Read(name);
    } catch (const PermanentError& error) {
      return error.what();
    }
    return "no error";
  }

  fs::path folder_;
  Recorder events_;
  std::vector<float> ones_ = {1, 1, 1, 1}, twos_ = {2, 2, 2, 2};
};

TEST_F(InitialWeightsTest, OfARunAreItsNewestGoodCheckpoint) {
  CheckpointFolder run({.path = folder_, .attempt = 1, .resume_from_attempt = 1, .kept = 3});
  run.Write({.step = 1, .model = {{"a.weight", {2, 2}, ones_}}});
  run.Write({.step = 2, .model = {{"a.weight", {2, 2}, twos_}}});
  EXPECT_THAT(Read("a.weight"), ElementsAre(2, 2, 2, 2));
  fs::resize_file(folder_ / "step-00000002.attempt-001/model.safetensors", 10);
  EXPECT_THAT(Read("a.weight"), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(events_.warnings, ElementsAre(HasSubstr("checkpoint step-00000002.attempt-001 is damaged")));
  folder_ /= "step-00000001.attempt-001";
  EXPECT_THAT(Read("a.weight"), ElementsAre(1, 1, 1, 1)) << "one checkpoint by itself";
  folder_ = folder_.parent_path();
}

TEST_F(InitialWeightsTest, OfAHuggingFaceFolderMayBeShardedAndTied) {
  WriteSafetensors(folder_ / "model-1.safetensors", {{"model.embed_tokens.weight", {2, 2}, ones_}});
  WriteSafetensors(folder_ / "model-2.safetensors", {{"b.weight", {2, 2}, twos_}});
  std::ofstream(folder_ / "model.safetensors.index.json")
      << R"({"weight_map":{"model.embed_tokens.weight":"model-1.safetensors","b.weight":"model-2.safetensors"}})";
  EXPECT_THAT(Read("b.weight"), ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(Read("lm_head.weight"), ElementsAre(1, 1, 1, 1)) << "a tied head is stored once";
}

TEST_F(InitialWeightsTest, AnotherModelIsRefusedByName) {
  EXPECT_THAT(ErrorOf("a.weight"), HasSubstr("holds no checkpoint (step-*), no model.safetensors and no "));
  WriteSafetensors(folder_ / "model.safetensors", {{"a.weight", {4}, ones_}, {"b.weight", {4}, ones_}});
  EXPECT_THAT(ErrorOf("c.weight"), HasSubstr("has no array \"c.weight\": is it a model of another family or depth?"));
  EXPECT_THAT(ErrorOf("a.weight"), HasSubstr("\"a.weight\" has shape [4], the model has [2, 2]"));
  InitialWeights weights(folder_, events_);
  std::vector<float> values(4);
  weights.Read("a.weight", {4}, values);
  EXPECT_THAT([&] { weights.RequireAllRead(); },
              ::testing::ThrowsMessage<PermanentError>(
                  HasSubstr("has 1 arrays that the spec's model has no place for, the first is \"b.weight\"")));
}

}  // namespace
}  // namespace normlab::trainer
