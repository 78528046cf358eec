#include "worker/trainer/export/export.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <deque>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/token_shard.h"
#include "worker/trainer/export/hugging_face_folder.h"
#include "worker/trainer/export/hugging_face_model.h"
#include "worker/trainer/export/sentencepiece_model.h"
#include "worker/trainer/model/parameters.h"
#include "worker/trainer/testing/tiny_dataset.h"
#include "worker/trainer/train/checkpoint.h"
#include "worker/trainer/train/fingerprint.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class ExportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("export_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  /// A checkpoint of a run with this scheme; every value of parameter i is i + 1.
  void WriteCheckpoint(const std::string& scheme) {
    TrainerSpec spec = TinySpec(folder_);
    spec.run.norm.scheme = scheme;
    spec = ParseTrainerSpec(ToJson(spec));
    std::deque<std::vector<float>> values;
    std::vector<NamedArray> arrays;
    for (const ParameterInfo& info : ListParameters(spec.run.model, kTinyVocabSize, spec.run.norm)) {
      values.emplace_back(static_cast<size_t>(info.NumElements()), static_cast<float>(values.size() + 1));
      arrays.push_back({info.name, info.shape, values.back()});
    }
    CheckpointFolder checkpoints({.path = spec.checkpoint_dir, .attempt = 1, .resume_from_attempt = 1, .kept = 2});
    checkpoints.Write({.step = 12,
                       .tokens = 384,
                       .fingerprint = FingerprintOf(spec.run, {.vocab_size = kTinyVocabSize}),
                       .run_json = spec.run_json,
                       .model = arrays,
                       .optimizer = {}});
  }

  ExportOptions Options() const { return {.checkpoint = folder_ / "checkpoints", .out = folder_ / "out"}; }

  fs::path folder_;
};

std::vector<float> ReadArray(const fs::path& folder, const std::string& name, const std::vector<int64_t>& shape) {
  const HuggingFaceFolder model(folder);
  size_t count = 1;
  for (const int64_t size : shape) count *= static_cast<size_t>(size);
  std::vector<float> values(count);
  model.Read(name, shape, values);
  return values;
}

TEST_F(ExportTest, FoldsTheScaleOfLayerNormScalingIntoTheGains) {
  WriteCheckpoint("lns");
  const ExportResult result = ExportToHuggingFace(Options());
  EXPECT_EQ(result.architecture, "LlamaForCausalLM");
  EXPECT_EQ(result.step, 12);
  EXPECT_THAT(result.files, ElementsAre("config.json", "model.safetensors"));
  // Parameters 1 to 22: the embedding, nine of each of two blocks, the final norm, the head.
  const auto value = [&](const std::string& name) { return ReadArray(folder_ / "out", name, {16})[5]; };
  EXPECT_FLOAT_EQ(value("model.layers.0.input_layernorm.weight"), 9);
  EXPECT_FLOAT_EQ(value("model.layers.0.post_attention_layernorm.weight"), 10);
  EXPECT_FLOAT_EQ(value("model.layers.1.input_layernorm.weight"), 18 / std::sqrt(2.0f));
  EXPECT_FLOAT_EQ(value("model.layers.1.post_attention_layernorm.weight"), 19 / std::sqrt(2.0f));
  EXPECT_FLOAT_EQ(value("model.norm.weight"), 20);
  EXPECT_FLOAT_EQ(ReadArray(folder_ / "out", "model.layers.1.mlp.down_proj.weight", {16, 32})[5], 17);
}

TEST_F(ExportTest, WhatNoClassComputesIsRefusedWithItsParts) {
  WriteCheckpoint("deepnorm");
  EXPECT_THAT([&] { ExportToHuggingFace(Options()); },
              ThrowsMessage<NotExpressible>(::testing::AllOf(
                  HasSubstr("attention has no norm on its input (blocks 1 to 2)"),
                  HasSubstr("a norm stands behind the residual sum of the feed-forward network (blocks 1 to 2)"),
                  HasSubstr("the residual around attention is multiplied by 1.414 (blocks 1 to 2)"))));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(ExportTest, NothingIsLeftWhenItFails) {
  WriteCheckpoint("pre_ln");
  ExportOptions options = Options();
  options.data = folder_ / "data";  // Its tokenizer is missing.
  WriteTinyDataset(options.data);
  fs::remove(options.data / "tokenizer.model");
  EXPECT_THAT([&] { ExportToHuggingFace(options); }, ThrowsMessage<std::runtime_error>(HasSubstr("tokenizer.model")));
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(folder_)) left.push_back(entry.path().filename());
  EXPECT_THAT(left, ::testing::UnorderedElementsAre("checkpoints", "data"));
}

TEST_F(ExportTest, ReplacesAnExportOnlyWhenAsked) {
  WriteCheckpoint("pre_ln");
  ExportToHuggingFace(Options());
  EXPECT_THROW(ExportToHuggingFace(Options()), AlreadyThere);
  ExportOptions options = Options();
  options.replaces = true;
  std::ofstream(folder_ / "out" / "old.txt") << "old";
  ExportToHuggingFace(options);
  EXPECT_FALSE(fs::exists(folder_ / "out" / "old.txt"));
  fs::remove(folder_ / "out" / "config.json");
  EXPECT_THROW(ExportToHuggingFace(options), AlreadyThere);
}

TEST_F(ExportTest, AFolderWithoutCheckpointsIsNamed) {
  EXPECT_THAT([&] { ExportToHuggingFace(Options()); }, ThrowsMessage<PermanentError>(HasSubstr("is no folder")));
  fs::create_directories(folder_ / "checkpoints");
  EXPECT_THAT([&] { ExportToHuggingFace(Options()); }, ThrowsMessage<PermanentError>(HasSubstr("holds no checkpoint")));
}

TEST_F(ExportTest, OtherNumbersInTheConfigurationAreRefused) {
  WriteCheckpoint("pre_ln");
  ExportToHuggingFace(Options());
  const fs::path config = folder_ / "out" / "config.json";
  nlohmann::json document = nlohmann::json::parse(std::ifstream(config));
  document["num_attention_heads"] = 3;
  std::ofstream(config) << document;
  EXPECT_THAT([&] { HuggingFaceFolder{folder_ / "out"}; },
              ThrowsMessage<PermanentError>(HasSubstr("num_attention_heads 3")));
}

/// One field of a protobuf message whose payload is bytes.
std::string Field(int number, const std::string& bytes) {
  return std::string(1, static_cast<char>(number << 3 | 2)) + static_cast<char>(bytes.size()) + bytes;
}

TEST_F(ExportTest, ReadsPiecesAndSettingsOfASentencePieceModel) {
  const float score = -2.5f;
  const std::string score_field = "\x15" + std::string(reinterpret_cast<const char*>(&score), 4);
  const std::string unknown = Field(1, "<unk>") + "\x18\x02", piece = Field(1, "ab") + score_field;
  const std::string normalizer = std::string("\x18\x00\x20\x00", 4);
  const fs::path path = folder_ / "tokenizer.model";
  std::ofstream(path, std::ios::binary) << Field(1, unknown) << Field(1, piece) << Field(2, "\x18\x02")
                                        << Field(3, normalizer);
  const SentencePieceModel model = ReadSentencePieceModel(path);
  ASSERT_EQ(model.pieces.size(), 2u);
  EXPECT_EQ(model.pieces[1].text, "ab");
  EXPECT_EQ(model.pieces[1].score, score);
  EXPECT_EQ(model.FindOnly(SentencePieceModel::PieceType::kUnknown), 0);
  EXPECT_EQ(model.FindOnly(SentencePieceModel::PieceType::kByte), -1);
  EXPECT_EQ(model.type, SentencePieceModel::Type::kBpe);
  EXPECT_FALSE(model.adds_dummy_prefix);
  EXPECT_FALSE(model.removes_extra_whitespaces);
  std::ofstream(path, std::ios::binary) << Field(1, unknown).substr(0, 5);
  EXPECT_THAT([&] { ReadSentencePieceModel(path); }, ThrowsMessage<std::runtime_error>(HasSubstr("cut short")));
}

}  // namespace
}  // namespace normlab::trainer
