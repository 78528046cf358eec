#include "common/norm_scheme.h"

#include <gtest/gtest.h>

#include <cmath>

namespace normlab {
namespace {

TEST(NormSchemeTest, EveryNameIsFoundOnceAndOthersAreNot) {
  for (const NormScheme& scheme : kNormSchemes) EXPECT_EQ(FindNormScheme(scheme.name), &scheme) << scheme.name;
  EXPECT_EQ(FindNormScheme("preln"), nullptr);
  EXPECT_EQ(FindNormScheme(""), nullptr);
}

TEST(NormSchemeTest, LnsScalesBothNormsByTheRootOfTheOneBasedLayer) {
  const NormScheme& lns = *FindNormScheme("lns");
  for (int layer = 1; layer <= 12; ++layer) {
    const BlockPlan plan = PlanBlock(lns, layer, 12, 0);
    for (const SublayerPlan& sublayer : {plan.attention, plan.ffn}) {
      EXPECT_TRUE(sublayer.has_input_norm && !sublayer.has_sum_norm);
      EXPECT_DOUBLE_EQ(sublayer.input_norm_scale, 1 / std::sqrt(layer));
    }
    EXPECT_EQ(plan.Init(BlockMatrix::kDown).Std(0.02, 100, 200), 0.02);
  }
}

TEST(NormSchemeTest, DeepNormHasThePapersConstantsAtEveryDepth) {
  struct Row {
    int layers;
    double alpha;
    double beta;
  };
  for (const Row& row : {Row{6, 1.861, 0.380}, Row{12, 2.213, 0.319}, Row{24, 2.632, 0.269}, Row{32, 2.828, 0.250},
                         Row{48, 3.130, 0.226}, Row{80, 3.557, 0.199}}) {
    const BlockPlan plan = PlanBlock(*FindNormScheme("deepnorm"), row.layers, row.layers, 0);
    for (const SublayerPlan& sublayer : {plan.attention, plan.ffn}) {
      EXPECT_TRUE(sublayer.has_sum_norm && !sublayer.has_input_norm);
      EXPECT_NEAR(sublayer.residual_scale, row.alpha, 5e-4);
    }
    for (const BlockMatrix matrix :
         {BlockMatrix::kValue, BlockMatrix::kOutput, BlockMatrix::kGate, BlockMatrix::kUp, BlockMatrix::kDown}) {
      EXPECT_NEAR(plan.Init(matrix).gain, row.beta, 5e-4);
    }
    EXPECT_EQ(plan.Init(BlockMatrix::kQuery).gain, 1);
    EXPECT_EQ(plan.Init(BlockMatrix::kKey).gain, 1);
    EXPECT_DOUBLE_EQ(plan.Init(BlockMatrix::kKey).Std(0.02, 300, 500), 0.05);
  }
}

TEST(NormSchemeTest, MixLnIsPostForTheFloorOfTheRatioAndPreAfterwards) {
  const NormScheme& mix_ln = *FindNormScheme("mix_ln");
  EXPECT_EQ(NumPostBlocks(0.25, 12), 3);
  EXPECT_EQ(NumPostBlocks(0.25, 24), 6);
  EXPECT_EQ(NumPostBlocks(0.25, 7), 1);
  EXPECT_EQ(NumPostBlocks(0.0625, 32), 2);
  EXPECT_EQ(NumPostBlocks(0, 12), 0);
  EXPECT_EQ(NumPostBlocks(1, 12), 12);
  for (int layer = 1; layer <= 12; ++layer) {
    EXPECT_EQ(PlanBlock(mix_ln, layer, 12, 0.25).ffn.has_sum_norm, layer <= 3);
  }
}

TEST(NormSchemeTest, ScaledInitDividesBothOutputProjectionsByTheRootOfTwoL) {
  const BlockPlan plan = PlanBlock(*FindNormScheme("pre_ln_scaled_init"), 3, 12, 0);
  for (const BlockMatrix matrix : {BlockMatrix::kOutput, BlockMatrix::kDown}) {
    EXPECT_DOUBLE_EQ(plan.Init(matrix).Std(0.02, 100, 200), 0.02 / std::sqrt(24));
  }
  for (const BlockMatrix matrix :
       {BlockMatrix::kQuery, BlockMatrix::kKey, BlockMatrix::kValue, BlockMatrix::kGate, BlockMatrix::kUp}) {
    EXPECT_EQ(plan.Init(matrix).Std(0.02, 100, 200), 0.02);
  }
}

TEST(NormSchemeTest, MixLnCountsWhatTheWrittenRatioMeansNotItsBinaryRounding) {
  EXPECT_EQ(NumPostBlocks(0.29, 100), 29);
  EXPECT_EQ(NumPostBlocks(0.7, 10), 7);
}

}  // namespace
}  // namespace normlab
