#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/spec.h"
#include "google/protobuf/text_format.h"

namespace normlab {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

v1::ExperimentSpec Spec(const std::string& more) {
  v1::ExperimentSpec spec;
  const char* const good = R"pb(
    name: "depth"
    base {
      model { num_layers: 12 hidden: 64 num_heads: 4 ffn_hidden: 172 }
      data { dataset: "kernel-docs" }
      train { steps: 300 }
    }
  )pb";
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(good, &spec));
  EXPECT_TRUE(google::protobuf::TextFormat::MergeFromString(more, &spec));
  return spec;
}

std::string ErrorOf(const std::string& more) { return std::string(ExpandMatrix(Spec(more)).status().message()); }

TEST(SpecMatrixTest, NoAxisIsOneRun) {
  const auto runs = ExpandMatrix(Spec(""));
  ASSERT_TRUE(runs.ok());
  ASSERT_EQ(runs->size(), 1);
  EXPECT_TRUE(runs->front().axes.empty());
  EXPECT_EQ(runs->front().spec.seed(), 1);
}

TEST(SpecMatrixTest, AxesAreSortedByNameAndTheLastIsFastest) {
  const auto runs = ExpandMatrix(Spec(R"pb(
    matrix {
      key: "seed"
      value {
        values { number_value: 1 }
        values { number_value: 2 }
      }
    }
    matrix {
      key: "norm.scheme"
      value {
        values { string_value: "pre_ln" }
        values { string_value: "lns" }
      }
    }
  )pb"));
  ASSERT_TRUE(runs.ok()) << runs.status();
  std::vector<std::string> order;
  for (const ExpandedRun& run : *runs) order.push_back(run.spec.norm().scheme() + std::to_string(run.spec.seed()));
  EXPECT_THAT(order, ElementsAre("pre_ln1", "pre_ln2", "lns1", "lns2"));
  EXPECT_THAT((*runs)[3].axes, ElementsAre(Pair("norm.scheme", "lns"), Pair("seed", "2")));
}

TEST(SpecMatrixTest, AnAxisWinsOverTheBase) {
  const auto runs = ExpandMatrix(Spec("matrix { key: 'train.steps' value { values { number_value: 5 } } }"));
  ASSERT_TRUE(runs.ok());
  EXPECT_EQ(runs->front().spec.train().steps(), 5);
}

TEST(SpecMatrixTest, AxisValuesReadAsPeopleWriteThem) {
  const auto runs = ExpandMatrix(Spec(R"pb(
    matrix {
      key: "norm.final_norm"
      value { values { bool_value: true } }
    }
    matrix {
      key: "train.lr"
      value { values { number_value: 0.001 } }
    }
    matrix {
      key: "train.steps"
      value { values { number_value: 1000000 } }
    }
  )pb"));
  ASSERT_TRUE(runs.ok()) << runs.status();
  EXPECT_THAT(runs->front().axes,
              ElementsAre(Pair("norm.final_norm", "true"), Pair("train.lr", "0.001"), Pair("train.steps", "1000000")));
}

TEST(SpecMatrixTest, TooManyRunsAreCountedWithoutWrapping) {
  v1::ExperimentSpec spec = Spec("");
  for (const char* axis : {"seed", "train.steps", "train.warmup_steps", "retries_max", "data.seq_len"}) {
    for (int i = 0; i < 10'000; ++i) (*spec.mutable_matrix())[axis].add_values()->set_number_value(i + 2);
  }
  const absl::Status status = ExpandMatrix(spec).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("makes 100000000000000000000 runs (10000 data.seq_len * "));
}

TEST(SpecMatrixTest, HeadsMustDivideHiddenIntoAnEvenSize) {
  EXPECT_THAT(ErrorOf("base { model { num_heads: 5 } }"), HasSubstr("nearest multiples are 60 and 65"));
  EXPECT_THAT(ErrorOf("base { model { hidden: 36 num_heads: 4 } }"), HasSubstr("each of 4 heads has size 9"));
}

TEST(SpecMatrixTest, TheBatchMustSplitEvenly) {
  EXPECT_THAT(ErrorOf("base { train { batch_size: 10 micro_batch_size: 2 } resources { workers: 2 } }"),
              HasSubstr("is 10, which is no multiple of micro_batch_size 2 * workers 2 = 4; use 8 or 12"));
  EXPECT_THAT(ErrorOf("base { train { batch_size: 1 } resources { workers: 2 } }"),
              HasSubstr("no multiple of workers 2; use 2"));
}

TEST(SpecMatrixTest, WarmupEndsInsideTheRun) {
  EXPECT_THAT(ErrorOf("base { train { warmup_steps: 301 } }"), HasSubstr("is 301, more than steps 300"));
  EXPECT_EQ(ErrorOf("base { train { warmup_steps: 300 } }"), "");
}

TEST(SpecMatrixTest, AGangCannotShrinkToMoreThanItIs) {
  EXPECT_THAT(ErrorOf("base { resources { workers: 2 workers_min: 3 } }"), HasSubstr("is 3, more than workers 2"));
  EXPECT_EQ(ErrorOf("base { resources { workers: 2 workers_min: 2 } }"), "");
}

TEST(SpecMatrixTest, WeightsOnTheSphereHaveNoCopies) {
  EXPECT_THAT(ErrorOf("base { norm { scheme: 'ngpt' } train { param_dtype: 'fp32_master' } }"),
              HasSubstr("fp32_master"));
  EXPECT_THAT(ErrorOf("base { norm { scheme: 'ngpt' } train { zero_stage: 1 } }"), HasSubstr("use 0"));
  EXPECT_EQ(ErrorOf("base { norm { scheme: 'ngpt' } }"), "");
}

TEST(SpecMatrixTest, TokensStayCountable) {
  EXPECT_THAT(ErrorOf("base { train { steps: 1000000000 batch_size: 1048576 } }"), HasSubstr("2.68e+17 tokens"));
}

TEST(SpecMatrixTest, ABrokenRuleNamesTheRunAndTheListIsBounded) {
  v1::ExperimentSpec spec = Spec("base { model { num_heads: 5 } }");
  for (int seed = 0; seed < 1000; ++seed) (*spec.mutable_matrix())["seed"].add_values()->set_number_value(seed);
  const std::string message(ExpandMatrix(spec).status().message());
  EXPECT_THAT(message, HasSubstr("(run with seed=0)"));
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 19);
}

/// The model of the last run of a spec that says no more of its model than `more`.
v1::ModelSpec ModelOf(const std::string& more) {
  v1::ExperimentSpec spec = Spec("");
  spec.mutable_base()->clear_model();
  EXPECT_TRUE(google::protobuf::TextFormat::MergeFromString(more, &spec));
  EXPECT_TRUE(ValidateExperiment(spec).empty()) << ValidateExperiment(spec)[0].message;
  const auto runs = ExpandMatrix(spec);
  EXPECT_TRUE(runs.ok()) << runs.status();
  return runs->back().spec.model();
}

TEST(SpecPresetTest, GivesTheShapeThatTheSpecLeavesOut) {
  const v1::ModelSpec model = ModelOf("base { model { preset: '130m' num_layers: 24 } }");
  EXPECT_EQ(model.num_layers(), 24) << "what the spec says wins";
  EXPECT_EQ(model.hidden(), 768);
  EXPECT_EQ(model.num_heads(), 12);
  EXPECT_EQ(model.ffn_hidden(), 2048);
}

TEST(SpecPresetTest, MayBeAnAxisBesideAnAxisOfOneOfItsFields) {
  const v1::ModelSpec model = ModelOf(R"pb(
    base { model { preset: "9m" } }
    matrix {
      key: "model.preset"
      value {
        values { string_value: "60m" }
        values { string_value: "1b" }
      }
    }
    matrix {
      key: "model.num_layers"
      value { values { number_value: 6 } }
    }
  )pb");
  EXPECT_EQ(model.preset(), "1b");
  EXPECT_EQ(model.num_layers(), 6);
  EXPECT_EQ(model.hidden(), 2048);
}

TEST(SpecPresetTest, AnExperimentKeepsWhatWasSubmitted) {
  v1::ExperimentSpec spec;
  spec.mutable_base()->mutable_model()->set_preset("9m");
  FillDefaults(&spec);
  EXPECT_FALSE(spec.base().model().has_hidden());
  FillDefaults(spec.mutable_base());
  EXPECT_EQ(spec.base().model().hidden(), 128);
}

TEST(SpecMatrixTest, FamiliesHaveRulesOfTheirOwn) {
  EXPECT_THAT(
      ErrorOf("base { model { family: 'minimax' num_heads: 32 } }"),
      ::testing::StrEq(
          "model.hidden: is 64, so that each of 32 heads has size 2; family minimax rotates half of a head in pairs "
          "and needs a multiple of 4"));
  EXPECT_THAT(ErrorOf("base { model { family: 'minimax' num_kv_heads: 3 } }"),
              HasSubstr("model.num_kv_heads: is 3, which does not divide num_heads 4"));
  EXPECT_THAT(ErrorOf("base { model { num_kv_heads: 2 } }"), HasSubstr("family llama has as many key and value heads"));
  EXPECT_THAT(ErrorOf("base { model { family: 'gpt2' max_positions: 128 } }"),
              HasSubstr("data.seq_len: is 256, more than the 128 positions that family gpt2 learns"));
  EXPECT_EQ(ErrorOf("base { model { family: 'minimax' num_kv_heads: 2 } }"), "");
}

}  // namespace
}  // namespace normlab
