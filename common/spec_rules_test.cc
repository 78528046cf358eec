#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/model_preset.h"
#include "common/norm_scheme.h"
#include "common/spec.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/json_util.h"
#include "normlab/v1/rules.pb.h"

namespace normlab {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

v1::ExperimentSpec GoodSpec() {
  v1::ExperimentSpec spec;
  EXPECT_TRUE(
      google::protobuf::TextFormat::ParseFromString(R"pb(
                                                      name: "depth"
                                                      base {
                                                        model { num_layers: 12 hidden: 64 num_heads: 4 ffn_hidden: 172 }
                                                        data { dataset: "kernel-docs" }
                                                        train { steps: 300 }
                                                      }
                                                    )pb",
                                                    &spec));
  return spec;
}

std::vector<Violation> ViolationsWith(const std::string& more) {
  v1::ExperimentSpec spec = GoodSpec();
  EXPECT_TRUE(google::protobuf::TextFormat::MergeFromString(more, &spec));
  return ValidateExperiment(spec);
}

TEST(SpecRulesTest, TheSchemesOfTheContractAreTheRowsOfTheTable) {
  const auto* field = v1::NormSpec::descriptor()->FindFieldByName("scheme");
  const v1::FieldRule& rule = field->options().GetExtension(v1::rule);
  std::vector<std::string> rows;
  for (const NormScheme& scheme : kNormSchemes) rows.emplace_back(scheme.name);
  rows.emplace_back(kCustomScheme);
  EXPECT_THAT(rule.one_of(), ::testing::ElementsAreArray(rows));
}

template <typename Table>
void ExpectChoices(const char* name, const Table& table) {
  const v1::FieldRule& rule = v1::NormSpec::descriptor()->FindFieldByName(name)->options().GetExtension(v1::rule);
  std::vector<std::string> rows;
  for (const auto& row : table) rows.emplace_back(row.name);
  EXPECT_THAT(rule.one_of(), ::testing::ElementsAreArray(rows)) << name;
}

TEST(SpecRulesTest, TheChoicesOfNormsInTheContractAreThoseOfTheTables) {
  ExpectChoices("kind", kNormKinds);
  ExpectChoices("qk_norm", kQkNorms);
  ExpectChoices("lns_position", kScalePositions);
  ExpectChoices("residual_dtype", kResidualDtypes);
  ExpectChoices("init_gain_of", kInitGainSets);
  ExpectChoices("init_family", kInitFamilies);
}

TEST(SpecRulesTest, ThePresetsOfTheContractAreTheRowsOfTheTable) {
  const auto* field = v1::ModelSpec::descriptor()->FindFieldByName("preset");
  std::vector<std::string> rows = {std::string(kNoPreset)};
  for (const ModelPreset& preset : kModelPresets) rows.emplace_back(preset.name);
  EXPECT_THAT(field->options().GetExtension(v1::rule).one_of(), ::testing::ElementsAreArray(rows));
}

TEST(SpecRulesTest, DefaultsFillWhatIsAbsentAndNothingElse) {
  v1::RunSpec run = GoodSpec().base();
  run.mutable_train()->set_lr(0.5);
  FillDefaults(&run);
  EXPECT_EQ(run.norm().scheme(), "pre_ln");
  EXPECT_TRUE(run.norm().final_norm());
  EXPECT_EQ(run.train().lr(), 0.5);
  EXPECT_EQ(run.train().beta2(), 0.999);
  EXPECT_EQ(run.data().seq_len(), 256);
  EXPECT_EQ(run.resources().workers(), 1);
  EXPECT_TRUE(run.train().has_grad_norm_max()) << "a default of zero is a value too";
  EXPECT_EQ(run.model().num_layers(), 12);
}

TEST(SpecRulesTest, EveryFieldHasADefaultOrIsRequiredAndDefaultsObeyTheirOwnRules) {
  v1::ExperimentSpec spec = GoodSpec();
  FillDefaults(spec.mutable_base());
  EXPECT_THAT(ValidateExperiment(spec), IsEmpty());
  for (const FieldInfo& field : RunSpecFields()) {
    EXPECT_TRUE(field.rule.find("default") != std::string::npos || field.rule.find("required") != std::string::npos)
        << field.path << ": " << field.rule;
  }
}

TEST(SpecRulesTest, ViolationsNameTheFieldByItsPath) {
  EXPECT_THAT(ViolationsWith("base { model { hidden: 4 } }"),
              ElementsAre(Violation{"base.model.hidden", "must be at least 8, not 4"}));
  EXPECT_THAT(ViolationsWith("base { norm { scheme: 'lnss' } }")[0].message, HasSubstr("did you mean 'lns'?"));
  EXPECT_THAT(ViolationsWith("base { train { lr: nan } }")[0].message, HasSubstr("finite"));
  EXPECT_THAT(ViolationsWith("name: ''"), ElementsAre(Violation{"name", "must not be empty"}));
  EXPECT_THAT(ViolationsWith("labels { key: '' value: 'x' }"),
              ElementsAre(Violation{"labels[]", "must not have an empty key"}));
  EXPECT_THAT(ViolationsWith("name: 'a\\001b'")[0].message, HasSubstr("byte 1 is 0x01"));
}

TEST(SpecRulesTest, ADatasetStaysBelowItsRoot) {
  for (const char* path : {"/etc", "../x", "a/../../b", "a/.."}) {
    EXPECT_THAT(ViolationsWith(std::string("base { data { dataset: '") + path + "' } }")[0].message,
                HasSubstr("relative path"));
  }
  EXPECT_THAT(ViolationsWith("base { data { dataset: 'a..b/c' } }"), IsEmpty());
}

TEST(SpecRulesTest, MatrixValuesAreCheckedByTheFieldOfTheirAxis) {
  EXPECT_THAT(ViolationsWith("matrix { key: 'seed' value { values { number_value: 1.5 } } }"),
              ElementsAre(Violation{"matrix[seed][0]", "must be a whole number, not 1.5"}));
  EXPECT_THAT(ViolationsWith("matrix { key: 'sed' value { values { number_value: 1 } } }")[0].message,
              HasSubstr("did you mean 'seed'?"));
  EXPECT_THAT(
      ViolationsWith("matrix { key: 'resources.worker_labels' value { values { string_value: 'x' } } }")[0].field,
      "matrix[resources.worker_labels]");
}

TEST(SpecRulesTest, MissingFieldsAreNamedEvenWhenTheirMessageIsAbsent) {
  std::vector<std::string> fields;
  for (const Violation& violation : ValidateExperiment(v1::ExperimentSpec())) fields.push_back(violation.field);
  EXPECT_THAT(fields, ElementsAre("name", "base.model.num_layers", "base.model.hidden", "base.model.num_heads",
                                  "base.model.ffn_hidden", "base.data.dataset", "base.train.steps"));
}

TEST(SpecRulesTest, AFieldOfANewerVersionIsRefusedNotDropped) {
  v1::ExperimentSpec spec = GoodSpec();
  auto* norm = spec.mutable_base()->mutable_norm();
  norm->GetReflection()->MutableUnknownFields(norm)->AddVarint(99, 1);
  const auto violations = ValidateExperiment(spec);
  ASSERT_EQ(violations.size(), 1);
  EXPECT_EQ(violations[0].field, "base.norm");
  EXPECT_THAT(violations[0].message, HasSubstr("number 99"));
}

TEST(SpecRulesTest, TheStatusHasOneLinePerViolation) {
  EXPECT_TRUE(ViolationsToStatus({}).ok());
  const absl::Status status = ViolationsToStatus({{"a", "is bad"}, {"b", "is worse"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "a: is bad\nb: is worse");
}

TEST(SpecJsonTest, EveryFieldOfTheRunIsPresentZeroesToo) {
  v1::TrainerSpec trainer;
  *trainer.mutable_run() = GoodSpec().base();
  FillDefaults(trainer.mutable_run());
  trainer.set_rank(0);
  const std::string json = ToTrainerJson(trainer);
  for (const FieldInfo& field : RunSpecFields()) {
    const std::string leaf = field.path.substr(field.path.rfind('.') + 1);
    EXPECT_THAT(json, HasSubstr("\"" + leaf + "\":"));
  }
  for (const char* key : {"\"rank\": 0", "\"rendezvous\": \"\"", "\"worker_labels\": {}", "\"micro_batch_size\": 0"}) {
    EXPECT_THAT(json, HasSubstr(key));
  }
  v1::TrainerSpec read;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(json, &read).ok());
  EXPECT_EQ(SpecDigest(read), SpecDigest(trainer));
}

TEST(SpecDigestTest, EqualSpecsHaveEqualDigestsInWhateverOrderTheirMapsWereFilled) {
  v1::ExperimentSpec a = GoodSpec(), b = GoodSpec();
  for (int i = 0; i < 20; ++i) (*a.mutable_labels())["k" + std::to_string(i)] = "v";
  for (int i = 19; i >= 0; --i) (*b.mutable_labels())["k" + std::to_string(i)] = "v";
  EXPECT_EQ(SpecDigest(a), SpecDigest(b));
  EXPECT_EQ(SpecDigest(a).size(), 64);
  b.set_priority(1);
  EXPECT_NE(SpecDigest(a), SpecDigest(b));
}

}  // namespace
}  // namespace normlab
