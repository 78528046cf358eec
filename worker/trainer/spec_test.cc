#include "worker/trainer/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "worker/trainer/testing/tiny_dataset.h"

namespace normlab::trainer {
namespace {

using ::testing::HasSubstr;

nlohmann::json Document() { return nlohmann::json::parse(ToJson(TinySpec("f"))); }

std::string ErrorOf(const nlohmann::json& document) {
  try {
    ParseTrainerSpec(document.dump());
  } catch (const PermanentError& error) {
    return error.what();
  }
  return "no error";
}

TEST(SpecTest, ReadsEveryField) {
  const TrainerSpec spec = ParseTrainerSpec(Document().dump());
  EXPECT_EQ(ToJson(spec), ToJson(TinySpec("f")));
}

TEST(SpecTest, KeepsTheRunAsJsonThatReadsBack) {
  const TrainerSpec spec = ParseTrainerSpec(Document().dump());
  TrainerSpec again = spec;
  again.run = ParseRunSpec(spec.run_json);
  EXPECT_EQ(ToJson(again), ToJson(spec));
}

TEST(SpecTest, PlainFieldsThatProtoJsonLeavesOutAreZero) {
  nlohmann::json document = Document();
  for (const char* key : {"rank", "resume_from_attempt", "rendezvous", "bind_host"}) document.erase(key);
  const TrainerSpec spec = ParseTrainerSpec(document.dump());
  EXPECT_EQ(spec.rank, 0);
  EXPECT_EQ(spec.resume_from_attempt, 0);
  EXPECT_EQ(spec.rendezvous, "");
}

TEST(SpecTest, ErrorsNameTheKey) {
  nlohmann::json document = Document();
  document["run"]["model"].erase("hidden");
  EXPECT_EQ(ErrorOf(document), "the spec is wrong: run.model: the key \"hidden\" is missing");
  document = Document();
  document["run"]["train"]["lrr"] = 1;
  EXPECT_EQ(ErrorOf(document), "the spec is wrong: run.train: the key \"lrr\" is unknown");
  document = Document();
  document["run"]["train"]["steps"] = "many";
  EXPECT_EQ(ErrorOf(document),
            "the spec is wrong: run.train.steps: must be a whole number from 1 to 1000000000, is \"many\"");
  document["run"]["train"]["steps"] = 0;
  EXPECT_THAT(ErrorOf(document), HasSubstr("run.train.steps: must be a whole number from 1 to 1000000000, is 0"));
  document = Document();
  document["run"]["train"]["lr"] = "fast";
  EXPECT_EQ(ErrorOf(document), "the spec is wrong: run.train.lr: must be a number from 0 to 100, is \"fast\"");
  document = Document();
  document["run"]["data"]["form"] = "rows";
  EXPECT_EQ(ErrorOf(document), "the spec is wrong: run.data.form: is \"rows\", must be packed or documents");
  document = Document();
  document["run"] = 3;
  EXPECT_EQ(ErrorOf(document), "the spec is wrong: run: must be an object, is 3");
  EXPECT_THROW(ParseTrainerSpec("{"), PermanentError);
}

TEST(SpecTest, ABatchThatDoesNotDivideIsRefusedWithTheNumbers) {
  nlohmann::json document = Document();
  document["run"]["train"]["batch_size"] = 10;
  document["run"]["train"]["micro_batch_size"] = 4;
  document["world_size"] = 2;
  EXPECT_EQ(ErrorOf(document),
            "the spec is wrong: run.train.batch_size: is 10, must be a multiple of 8 (micro_batch_size 4 on each of 2 "
            "ranks)");
  document["run"]["train"]["micro_batch_size"] = 5;
  EXPECT_EQ(ErrorOf(document), "no error");
}

TEST(SpecTest, ARankAboveZeroNeedsARendezvous) {
  nlohmann::json document = Document();
  document["world_size"] = 2;
  document["rank"] = 1;
  EXPECT_EQ(ErrorOf(document),
            "the spec is wrong: rendezvous: is empty, rank 1 needs the address that rank 0 reported");
  document["rank"] = 2;
  EXPECT_EQ(ErrorOf(document), "the spec is wrong: rank: is 2, must be below world_size 2");
}

}  // namespace
}  // namespace normlab::trainer
