#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/spec.h"
#include "fmt/format.h"

namespace normlab {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kGood[] = R"(name: depth
base:
  model: {num_layers: 12, hidden: 64, num_heads: 4, ffn_hidden: 172}
  data: {dataset: kernel-docs}
  train:
    steps: 300
    batch_size: 16
)";

std::string ErrorOf(const std::string& yaml) {
  const auto spec = ParseExperimentYaml(yaml, "e.yaml");
  if (spec.ok()) return "accepted";
  EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(spec.status().message());
}

TEST(SpecYamlTest, ReadsEveryKindOfField) {
  const auto spec = ParseExperimentYaml(std::string(kGood) + R"(  norm: {final_norm: false, mix_ln_ratio: 1e-1}
  seed: 7
labels: {team: "42", nightly: "yes"}
priority: -3
matrix:
  norm.scheme: [pre_ln, lns]
  train.lr: [1e-3, 0.0005]
)",
                                        "e.yaml");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->name(), "depth");
  EXPECT_EQ(spec->base().model().hidden(), 64);
  EXPECT_EQ(spec->base().train().steps(), 300);
  EXPECT_FALSE(spec->base().norm().final_norm());
  EXPECT_EQ(spec->base().norm().mix_ln_ratio(), 0.1);
  EXPECT_EQ(spec->base().seed(), 7);
  EXPECT_EQ(spec->priority(), -3);
  EXPECT_EQ(spec->labels().at("team"), "42");
  EXPECT_EQ(spec->matrix().at("norm.scheme").values(1).string_value(), "lns");
  EXPECT_EQ(spec->matrix().at("train.lr").values(0).number_value(), 0.001);
  EXPECT_FALSE(spec->base().train().has_lr()) << "defaults are filled in later";
}

TEST(SpecYamlTest, AnUnknownKeyIsNamedWithItsPlaceAndTheNearestName) {
  EXPECT_EQ(ErrorOf(std::string(kGood) + "    batch_sise: 8\n"),
            "e.yaml:8:5: unknown key 'batch_sise' in base.train; did you mean 'batch_size'?");
  EXPECT_THAT(ErrorOf(std::string(kGood) + "dropout: 0.1\n"),
              StartsWith("e.yaml:8:1: unknown key 'dropout' in the experiment; it may have name, description,"));
}

TEST(SpecYamlTest, AWrongTypeIsNamedWithWhatStandsThere) {
  const std::string good = kGood;
  EXPECT_EQ(ErrorOf(good + "    seed: 1\n"),
            "e.yaml:8:5: unknown key 'seed' in base.train; it may have steps, "
            "batch_size, micro_batch_size, lr, lr_min_ratio, warmup_steps, beta1, "
            "beta2, adam_eps, weight_decay, grad_norm_max, loss_mean, optimizer, schedule, decay_ratio, param_dtype, "
            "divergence_loss, divergence_steps, zero_stage, init_from");
  EXPECT_EQ(ErrorOf(good + "    lr: fast\n"), "e.yaml:8:9: base.train.lr must be a number, not text 'fast'");
  EXPECT_EQ(ErrorOf(good + "    lr: \"0.1\"\n"), "e.yaml:8:9: base.train.lr must be a number, not text '0.1'");
  EXPECT_EQ(ErrorOf(good + "    lr: .inf\n"), "e.yaml:8:9: base.train.lr must be a number, not text '.inf'");
  EXPECT_EQ(ErrorOf(good + "    lr: nan\n"), "e.yaml:8:9: base.train.lr must be a number, not text 'nan'");
  EXPECT_EQ(ErrorOf(good + "    lr: [1, 2]\n"),
            "e.yaml:8:9: base.train.lr must be a number, not a list; to try several values write it under matrix as "
            "'train.lr'");
  EXPECT_EQ(ErrorOf(good + "  seed: 1.5\n"), "e.yaml:8:9: base.seed must be a whole number, not 1.5");
  EXPECT_EQ(ErrorOf(good + "  norm: {final_norm: 1}\n"),
            "e.yaml:8:22: base.norm.final_norm must be true or false, not number 1");
  EXPECT_EQ(ErrorOf(good + "description: 5\n"),
            "e.yaml:8:14: description must be text, not number 5 (put it in quotes if it is meant as text)");
  EXPECT_THAT(ErrorOf(good + "  norm: lns\n"), "e.yaml:8:9: base.norm must be a map of keys and values, not 'lns'");
  EXPECT_EQ(ErrorOf(good + "labels: {n: 1}\n"),
            "e.yaml:8:13: labels.n must be text, not '1'; put it in quotes if it is meant as text");
  EXPECT_THAT(ErrorOf(good + "    lr:\n"), HasSubstr("base.train.lr must be a number, not nothing"));
}

TEST(SpecYamlTest, AValueOutOfRangeIsNamedWithItsBound) {
  EXPECT_EQ(ErrorOf(std::string(kGood) + "    lr: 0\n"), "e.yaml:8:9: base.train.lr must be above 0, not 0");
  EXPECT_EQ(ErrorOf(std::string(kGood) + "    beta1: 1\n"),
            "e.yaml:8:12: base.train.beta1 must be at most 0.999999, "
            "not 1");
  EXPECT_EQ(ErrorOf(std::string(kGood) + "  retries_max: -1\n"),
            "e.yaml:8:16: base.retries_max must be at least 0, not -1");
}

TEST(SpecYamlTest, AChoiceThatDoesNotExistNamesAllAndTheNearest) {
  const std::string error = ErrorOf(std::string(kGood) + "  norm: {scheme: preln}\n");
  EXPECT_THAT(error, StartsWith("e.yaml:8:18: base.norm.scheme must be one of pre_ln, lns, post_ln, deepnorm, "));
  EXPECT_THAT(error, EndsWith("not 'preln'; did you mean 'pre_ln'?"));
}

TEST(SpecYamlTest, AMatrixAxisIsCheckedAtItsOwnPlace) {
  const std::string good = kGood;
  EXPECT_EQ(ErrorOf(good + "matrix: {norm.sheme: [lns]}\n"),
            "e.yaml:8:10: matrix axis 'norm.sheme' names no field of a run; an axis is a leaf such as norm.scheme, "
            "model.num_layers or seed; did you mean 'norm.scheme'?");
  EXPECT_THAT(ErrorOf(good + "matrix: {norm: [lns]}\n"), StartsWith("e.yaml:8:10: matrix axis 'norm' names no field"));
  const std::string error = ErrorOf(good + "matrix:\n  norm.scheme: [pre_ln, lsn]\n");
  EXPECT_THAT(error, StartsWith("e.yaml:9:25: matrix axis 'norm.scheme' must be one of pre_ln, lns, "));
  EXPECT_THAT(error, EndsWith("not 'lsn'; did you mean 'lns'?"));
  EXPECT_EQ(ErrorOf(good + "matrix:\n  seed: 3\n"), "e.yaml:9:9: matrix axis 'seed' must be a list of values, not '3'");
  EXPECT_EQ(ErrorOf(good + "matrix:\n  seed: []\n"), "e.yaml:9:3: matrix axis 'seed' has no values; give at least one");
  EXPECT_EQ(ErrorOf(good + "matrix:\n  seed: [1, 2, 1]\n"),
            "e.yaml:9:16: matrix axis 'seed' has the value 1 twice; two runs would be the same");
  EXPECT_EQ(ErrorOf(good + "matrix:\n  seed: [[1]]\n"),
            "e.yaml:9:10: matrix axis 'seed' must be a whole number, not a list");
}

TEST(SpecYamlTest, ADuplicateKeyIsAnError) {
  EXPECT_EQ(ErrorOf(std::string(kGood) + "    steps: 5\n"),
            "e.yaml:8:5: duplicate key 'steps'; it is already in line 6");
  EXPECT_EQ(ErrorOf(std::string(kGood) + "matrix:\n  seed: [1]\n  seed: [2]\n"),
            "e.yaml:10:3: duplicate key 'seed'; it is already in line 9");
}

TEST(SpecYamlTest, AllErrorsAreCollectedInOrderOfPlace) {
  EXPECT_EQ(ErrorOf("nmae: x\nbase:\n  model: {num_layers: 0}\n  seed: x\n"),
            "e.yaml:1:1: unknown key 'nmae' in the experiment; did you mean 'name'?\n"
            "e.yaml:3:23: base.model.num_layers must be at least 1, not 0\n"
            "e.yaml:4:9: base.seed must be a whole number, not text 'x'");
}

TEST(SpecYamlTest, MissingFieldsAreNamedAtTheMapThatShouldHaveThem) {
  EXPECT_EQ(ErrorOf("name: x\nbase:\n  model: {num_layers: 2, hidden: 64, num_heads: 4}\n  train: {steps: 9}\n"),
            "e.yaml:2:1: base.data.dataset is missing; it has no default\n"
            "e.yaml:3:3: base.model.ffn_hidden is missing; give it or model.preset");
}

TEST(SpecYamlTest, APresetCountsAsGivingTheShapeUnlessOneRunHasNone) {
  const std::string head = "name: x\nbase:\n  data: {dataset: d}\n  train: {steps: 9}\n";
  EXPECT_EQ(ErrorOf(head + "  model: {preset: 130m}\n"), "accepted");
  EXPECT_EQ(ErrorOf(head + "matrix: {model.preset: [9m, 20m]}\n"), "accepted");
  EXPECT_THAT(ErrorOf(head + "matrix: {model.preset: [9m, none]}\n"),
              StartsWith("e.yaml:2:1: base.model.num_layers is missing; give it or model.preset\n"));
  EXPECT_EQ(ErrorOf(head + "  model: {preset: 130M}\n"),
            "e.yaml:5:19: base.model.preset must be one of none, 9m, 20m, 35m, 40m, 60m, 71m, 100m, 130m, 250m, 350m, "
            "1b, 3b, 7b, not '130M'; did you mean '130m'?");
}

TEST(SpecYamlTest, AnAxisCountsAsGivingItsField) {
  const auto spec = ParseExperimentYaml(
      "name: x\nbase:\n  model: {hidden: 64, num_heads: 4, ffn_hidden: 172}\n  data: {dataset: d}\n  train: {steps: "
      "9}\nmatrix: {model.num_layers: [2, 4]}\n",
      "e.yaml");
  EXPECT_TRUE(spec.ok()) << spec.status();
}

TEST(SpecYamlTest, RulesBetweenFieldsAreReportedAtTheFieldToChange) {
  EXPECT_EQ(ErrorOf(std::string(kGood) + "    micro_batch_size: 5\n"),
            "e.yaml:7:5: base.train.batch_size is 16, which is no multiple of micro_batch_size 5 * workers 1 = 5; use "
            "15 or 20");
  EXPECT_THAT(
      ErrorOf(std::string(kGood) + "matrix:\n  model.hidden: [64, 66]\n"),
      StartsWith("e.yaml:9:3: base.model.hidden is 66, which num_heads 4 does not divide; the nearest multiples "
                 "are 64 and 68 (run with model.hidden=66)"));
}

TEST(SpecYamlTest, TooManyRunsAreRefusedWithTheNumbers) {
  std::string seeds = "[0";
  for (int seed = 1; seed <= 5000; ++seed) seeds += fmt::format(", {}", seed);
  EXPECT_EQ(ErrorOf(std::string(kGood) + "matrix:\n  norm.scheme: [lns, pre_ln]\n  seed: " + seeds + "]\n"),
            "e.yaml:8:1: the matrix makes 10002 runs (2 norm.scheme * 5001 seed), at most 10000 are allowed; take out "
            "values or split the experiment");
}

TEST(SpecYamlTest, WhatIsNoYamlOrNotOneDocumentIsAnErrorWithItsPlace) {
  EXPECT_THAT(ErrorOf("name: [1\nbase: 2\n"), StartsWith("e.yaml:2:"));
  EXPECT_THAT(ErrorOf("name: a\n\tbase: 2\n"), StartsWith("e.yaml:"));
  EXPECT_THAT(ErrorOf(""), StartsWith("e.yaml:1:1: the file has no experiment"));
  EXPECT_THAT(ErrorOf("# only a comment\n"), StartsWith("e.yaml:1:1: the file has no experiment"));
  EXPECT_EQ(ErrorOf("a: 1\n---\nb: 2\n"),
            "e.yaml:1:1: the file has several YAML documents, it must have one (or it begins with a stray sign)");
  EXPECT_EQ(ErrorOf("- 1\n"), "e.yaml:1:1: the experiment must be a map of keys and values, not a list");
  EXPECT_EQ(ErrorOf(std::string(kYamlBytesMax + 1, '#')),
            "e.yaml:1:1: the file has 1048577 bytes, at most 1048576 are allowed");
}

TEST(SpecYamlTest, HostileDepthIsAnErrorAndNoCrash) {
  EXPECT_THAT(ErrorOf("name: " + std::string(100'000, '[')), StartsWith("e.yaml:"));
  EXPECT_THAT(ErrorOf(std::string(100'000, '{')), StartsWith("e.yaml:"));
}

TEST(SpecYamlTest, AliasesAreReadAsWhatTheyStandFor) {
  const auto spec = ParseExperimentYaml(std::string(kGood) + "labels: {a: &t x, b: *t}\n", "e.yaml");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->labels().at("b"), "x");
}

TEST(SpecYamlTest, WhatIsPrintedIsReadAsTheSameSpec) {
  const auto spec = ParseExperimentYaml(std::string(kGood) + R"(labels: {a: "1", b: "true", c: "x: y", d: ""}
description: "two\nlines"
matrix: {norm.scheme: [lns, pre_ln], train.lr: [0.001, 1e-5], norm.final_norm: [true, false]}
)",
                                        "e.yaml");
  ASSERT_TRUE(spec.ok()) << spec.status();
  const auto again = ParseExperimentYaml(ToYaml(*spec), "again.yaml");
  ASSERT_TRUE(again.ok()) << again.status() << "\n" << ToYaml(*spec);
  EXPECT_EQ(SpecDigest(*again), SpecDigest(*spec));
}

TEST(SpecYamlTest, RefusesAStrayCommaAtTheBeginning) {
  for (const char* text : {", a", ",", "], a: b", "# only\n, x: y\n"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseExperimentYaml(text, "a.yaml").status())) << text;
  }
}

TEST(SpecYamlTest, RefusesAFileThatIsNotUtf8WithThePlace) {
  for (const char* bytes : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe4"}) {
    const auto spec = ParseExperimentYaml(std::string("name: x\ndescription: \xc3\xa4") + bytes, "a.yaml");
    EXPECT_TRUE(absl::IsInvalidArgument(spec.status()));
    EXPECT_EQ(std::string(spec.status().message()),
              "a.yaml:2:15: the file is not UTF-8 from here on; save it as UTF-8");
  }
}

TEST(SpecYamlTest, AnExpressionThatCannotBeReadIsPointedAt) {
  const std::string good = kGood;
  EXPECT_EQ(
      ErrorOf(good + "  norm: {scheme: custom, output_scale: l^^p}\n"),
      "e.yaml:8:26: base.norm.output_scale \"l^^p\", character 3: expected a number, a name or '(' instead of '^'");
  EXPECT_EQ(
      ErrorOf(good + "  norm: {scheme: custom, output_scale: 1/(l-p)}\nmatrix: {norm.p: [0, 2]}\n"),
      "e.yaml:8:26: base.norm.output_scale \"1/(l-p)\" is inf at l = 2, L = 12, p = 2, q = 0 (run with norm.p=2)");
}

}  // namespace
}  // namespace normlab
