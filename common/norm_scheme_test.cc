#include "common/norm_scheme.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/norm_plan.h"

namespace normlab {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(NormSchemeTest, EveryNameIsFoundOnceAndOthersAreNot) {
  for (const NormScheme& scheme : kNormSchemes) EXPECT_EQ(FindNormScheme(scheme.name), &scheme) << scheme.name;
  EXPECT_EQ(FindNormScheme("preln"), nullptr);
  EXPECT_EQ(FindNormScheme(""), nullptr);
}

TEST(NormPlanTest, LnsScalesBothNormsByTheRootOfTheOneBasedLayer) {
  for (int layer = 1; layer <= 12; ++layer) {
    const BlockPlan plan = PlanBlock({.scheme = "lns"}, layer, 12);
    for (const SublayerPlan& sublayer : {plan.attention, plan.ffn}) {
      ASSERT_TRUE(sublayer.input_norm && !sublayer.sum_norm && !sublayer.branch_norm);
      EXPECT_DOUBLE_EQ(sublayer.input_norm->output_scale, 1 / std::sqrt(layer));
    }
    EXPECT_EQ(plan.Init(BlockMatrix::kDown).Std(0.02, 100, 100, 200), 0.02);
  }
}

TEST(NormPlanTest, APositionMovesTheScaleAndLeavesNothingBehind) {
  const auto plan = [](const char* position) { return PlanBlock({.scheme = "lns", .lns_position = position}, 4, 8); };
  EXPECT_EQ(plan("attn_only").attention.input_norm->output_scale, 0.5);
  EXPECT_EQ(plan("attn_only").ffn.input_norm->output_scale, 1);
  EXPECT_EQ(plan("ffn_only").attention.input_norm->output_scale, 1);
  EXPECT_EQ(plan("ffn_only").ffn.input_norm->output_scale, 0.5);
  EXPECT_EQ(plan("before").ffn.input_norm->eps_scale, 4);
  EXPECT_EQ(plan("after_branch").ffn.branch_scale, 0.5);
  EXPECT_EQ(plan("after_residual").ffn.sum_scale, 0.5);
  EXPECT_EQ(plan("gain_init").ffn.input_norm->gain_init, 0.5);
  for (const char* position : {"before", "after_branch", "after_residual", "gain_init"}) {
    EXPECT_EQ(plan(position).attention.input_norm->output_scale, 1) << position;
  }
}

TEST(NormPlanTest, DeepNormHasThePapersConstantsAtEveryDepth) {
  struct Row {
    int layers;
    double alpha;
    double beta;
  };
  for (const Row& row : {Row{6, 1.861, 0.380}, Row{12, 2.213, 0.319}, Row{24, 2.632, 0.269}, Row{32, 2.828, 0.250},
                         Row{48, 3.130, 0.226}, Row{80, 3.557, 0.199}}) {
    const BlockPlan plan = PlanBlock({.scheme = "deepnorm"}, row.layers, row.layers);
    for (const SublayerPlan& sublayer : {plan.attention, plan.ffn}) {
      EXPECT_TRUE(sublayer.sum_norm && !sublayer.input_norm);
      EXPECT_NEAR(sublayer.residual_scale, row.alpha, 5e-4);
    }
    for (const BlockMatrix matrix :
         {BlockMatrix::kValue, BlockMatrix::kOutput, BlockMatrix::kGate, BlockMatrix::kUp, BlockMatrix::kDown}) {
      EXPECT_NEAR(plan.Init(matrix).gain, row.beta, 5e-4);
    }
    EXPECT_EQ(plan.Init(BlockMatrix::kQuery).gain, 1);
    EXPECT_EQ(plan.Init(BlockMatrix::kKey).gain, 1);
    EXPECT_DOUBLE_EQ(plan.Init(BlockMatrix::kKey).Std(0.02, 300, 300, 500), 0.05);
  }
}

TEST(NormPlanTest, TheReleasedDeepNormHasTheConstantOf32LayersAndTheInvertedGain) {
  const BlockPlan plan = PlanBlock({.scheme = "deepnorm_mixln_release"}, 3, 12);
  EXPECT_EQ(plan.ffn.residual_scale, 2.8284);
  EXPECT_NEAR(plan.Init(BlockMatrix::kValue).gain, 3.13, 5e-3);
}

TEST(NormPlanTest, ScaledInitDividesBothOutputProjectionsByTheRootOfTwoL) {
  for (const char* scheme : {"pre_ln_scaled_init", "lns_scaled_init"}) {
    const BlockPlan plan = PlanBlock({.scheme = scheme}, 3, 12);
    for (const BlockMatrix matrix : {BlockMatrix::kOutput, BlockMatrix::kDown}) {
      EXPECT_DOUBLE_EQ(plan.Init(matrix).Std(0.02, 100, 100, 200), 0.02 / std::sqrt(24));
    }
    for (const BlockMatrix matrix :
         {BlockMatrix::kQuery, BlockMatrix::kKey, BlockMatrix::kValue, BlockMatrix::kGate, BlockMatrix::kUp}) {
      EXPECT_EQ(plan.Init(matrix).Std(0.02, 100, 100, 200), 0.02);
    }
  }
}

TEST(NormPlanTest, KeelsResidualScaleIsTheNumberOfSublayersAndItHasBothNorms) {
  const BlockPlan plan = PlanBlock({.scheme = "keel"}, 3, 12);
  EXPECT_EQ(plan.ffn.residual_scale, 24);
  EXPECT_EQ(plan.attention.input_norm->name, "input_layernorm");
  EXPECT_EQ(plan.attention.sum_norm->name, "post_attention_layernorm");
  EXPECT_EQ(plan.ffn.input_norm->name, "pre_feedforward_layernorm");
  EXPECT_EQ(plan.ffn.sum_norm->name, "post_feedforward_layernorm");
}

TEST(NormPlanTest, HybridNormTakesTheNormedStreamAsResidualButForTheFirstBlockOfItsStarForm) {
  const BlockPlan first = PlanBlock({.scheme = "hybrid_norm_star"}, 1, 12);
  EXPECT_TRUE(first.attention.input_norm && first.qkv_norms.value && !first.ffn.residual_is_normed);
  for (const BlockPlan& plan :
       {PlanBlock({.scheme = "hybrid_norm_star"}, 2, 12), PlanBlock({.scheme = "hybrid_norm"}, 1, 12)}) {
    EXPECT_TRUE(!plan.attention.input_norm && plan.qkv_norms.value && plan.ffn.residual_is_normed);
  }
  EXPECT_THAT([] { PlanBlock({.scheme = "hybrid_norm", .qk_norm = "full"}, 1, 12); },
              ThrowsMessage<NormSpecError>(HasSubstr("norm.qk_norm: is full, but hybrid_norm has norms of its own")));
}

TEST(NormPlanTest, MixLnIsPostForTheFloorOfTheRatioAndPreAfterwards) {
  EXPECT_EQ(NumPostBlocks(0.25, 12), 3);
  EXPECT_EQ(NumPostBlocks(0.25, 24), 6);
  EXPECT_EQ(NumPostBlocks(0.25, 7), 1);
  EXPECT_EQ(NumPostBlocks(0.0625, 32), 2);
  EXPECT_EQ(NumPostBlocks(0, 12), 0);
  EXPECT_EQ(NumPostBlocks(1, 12), 12);
  for (int layer = 1; layer <= 12; ++layer) {
    EXPECT_EQ(PlanBlock({.scheme = "mix_ln"}, layer, 12).ffn.sum_norm.has_value(), layer <= 3);
  }
}

TEST(NormPlanTest, MixLnCountsWhatTheWrittenRatioMeansNotItsBinaryRounding) {
  EXPECT_EQ(NumPostBlocks(0.29, 100), 29);
  EXPECT_EQ(NumPostBlocks(0.7, 10), 7);
}

TEST(NormPlanTest, AnExpressionThatIsNotFiniteSomewhereIsNamedWithItsPlace) {
  EXPECT_THAT([] { PlanBlock({.scheme = "custom", .output_scale = "1/(l-3)"}, 3, 12); },
              ThrowsMessage<NormSpecError>(HasSubstr("norm.output_scale: \"1/(l-3)\" is inf at l = 3, L = 12")));
  EXPECT_THAT([] { PlanBlock({.scheme = "custom", .init_gain = "l^^p"}, 3, 12); },
              ThrowsMessage<NormSpecError>(HasSubstr("norm.init_gain: \"l^^p\", character 3: expected a number")));
}

}  // namespace
}  // namespace normlab
